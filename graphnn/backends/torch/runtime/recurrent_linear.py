"""Matmuls with one weight at each of many steps, `x wᵀ`, in a layout chosen once.

`recurrent_linear` chooses the layout. Microseconds of (rows, in) x (in, out), with `x` just written
by another operation (Xeon with AVX-512, 2 threads, torch 2.13, float32):

                           as it is    transposed    row blocks  packed
    (32, 256) x (256, 256)       26            26         19        27
    (32, 512) x (512, 256)       54            40         27        37
    (32, 256) x (256, 1024)      68            55         48        45
    (32, 1024) x (1024, 256)     72            61         50        63
    (16, 512) x (512, 1024)     120            67         80        46
    (16, 2048) x (2048, 512)    382           138        172       121
    (32, 512) x (512, 2048)                   245        285       192
"""

from __future__ import annotations

import torch

from graphnn.backends.torch.runtime.linear import AMD, works

Tensor = torch.Tensor

# steps from which a weight is copied into another layout: transposing (2048, 512) takes as long as
# 7 matmuls with 16 rows lose without it
MANY = 16
# rows per thread from which row blocks are faster, and the bytes of a weight that fits into every
# core's cache together with the other operands of a step (with row blocks, an LSTM with peepholes
# of 256 units, whose weight has 1 MB, takes 4% longer)
ROWS, CACHED = 16, 1 << 19


def recurrent_linear(w: Tensor, steps: int, rows: int) -> RecurrentLinear:
    """The matmuls of a weight (out, in) with `rows` rows at each of `steps` steps."""
    if w.device.type != "cpu" or steps < MANY:
        return RecurrentLinear(w.t())
    threads = torch.get_num_threads()
    even = rows % threads == 0 and rows // threads >= ROWS
    if threads > 1 and even and w.nbytes <= CACHED and torch.backends.mkl.is_available():
        return RowBlocks(w.t().contiguous(), threads)
    if PACKS and w.dtype == torch.float32 and rows >= ROWS and _packs(w):
        return PackedWeight(w, rows)
    return RecurrentLinear(w.t().contiguous())


class RecurrentLinear:
    """Matmuls by the weight (in, out)."""

    def __init__(self, w: Tensor):
        self.w = w

    def multiply(self, out: Tensor, x: Tensor) -> None:
        """`out = x w`."""
        torch.mm(x, self.w, out=out)

    def accumulate(self, out: Tensor, x: Tensor) -> None:
        """`out += x w`."""
        out.addmm_(x, self.w)

    def multiply_add(self, out: Tensor, c: Tensor, x: Tensor) -> None:
        """`out = c + x w`: two calls take 9.3 µs; addmm, which first copies `c`, takes 13.1 µs."""
        self.multiply(out, x)
        torch.add(c, out, out=out)


class RowBlocks(RecurrentLinear):
    """Each thread multiplies its own rows, so that none waits for another core's writes."""

    def __init__(self, w: Tensor, threads: int):
        super().__init__(w)
        self.threads, self.each = threads, w.expand(threads, *w.shape)

    def multiply(self, out: Tensor, x: Tensor) -> None:
        if out.is_contiguous():
            torch.bmm(self._split(x), self.each, out=self._split(out))
        else:
            super().multiply(out, x)

    def accumulate(self, out: Tensor, x: Tensor) -> None:
        if out.is_contiguous():
            self._split(out).baddbmm_(self._split(x), self.each)
        else:
            super().accumulate(out, x)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(self.threads, -1, x.shape[-1])


class PackedWeight(RecurrentLinear):
    """Matmuls by a weight in MKL's own layout, for a fixed number of rows."""

    def __init__(self, w: Tensor, rows: int):
        self.given, self.rows = w.contiguous(), rows
        self.packed = _pack(self.given, rows)

    def matmul(self, x: Tensor) -> Tensor:
        return _by_packed(x, self.packed, self.given, self.rows)

    def multiply(self, out: Tensor, x: Tensor) -> None:
        out.copy_(self.matmul(x))

    def accumulate(self, out: Tensor, x: Tensor) -> None:
        out.add_(self.matmul(x))

    def multiply_add(self, out: Tensor, c: Tensor, x: Tensor) -> None:
        torch.add(c, self.matmul(x), out=out)


def _packs(w: Tensor) -> bool:
    """Whether MKL's layout is faster."""
    return (w.shape[0] > w.shape[1] and w.numel() >= 1 << 17) or w.numel() >= 1 << 20


def _pack(w: Tensor, rows: int) -> Tensor:
    return torch.ops.mkl._mkl_reorder_linear_weight.default(w, rows)  # type: ignore[no-any-return]


def _by_packed(x: Tensor, packed: Tensor, w: Tensor, rows: int) -> Tensor:
    return torch.ops.mkl._mkl_linear.default(x, packed, w, None, rows)  # type: ignore[no-any-return]


# not a public function: tried out once
PACKS = not AMD and works(lambda x, w: _by_packed(x, _pack(w, 2), w, 2))
