"""Products with one weight at each of many steps, `x wᵀ`: the weight is laid out once for all.

`times` picks the form. Microseconds of (rows, into) x (into, out), `x` fresh from another operation
(Xeon with AVX-512, 2 threads, torch 2.13, float32; the weight as it is, then in each form):

                           as it is    transposed    by rows    packed
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

# steps from which a weight is laid out anew: transposing (2048, 512) takes as long as its product
# with 16 rows loses in 7 steps where it is not
MANY = 16
# rows from which a thread is better left alone with its own, and bytes of a weight that then stay
# in the cache of every core, beside all else that a step reads (by rows an LSTM with peepholes of
# 256 units, whose weight has 1 MB, takes 4% longer)
ROWS, CACHED = 16, 1 << 19


def times(w: Tensor, steps: int, rows: int) -> Times:
    """The products of a weight (out, into) with `rows` rows at each of `steps` steps."""
    if w.device.type != "cpu" or steps < MANY:
        return Times(w.t())
    threads = torch.get_num_threads()
    even = rows % threads == 0 and rows // threads >= ROWS
    if threads > 1 and even and w.nbytes <= CACHED and torch.backends.mkl.is_available():
        return ByRows(w.t().contiguous(), threads)
    if PACKS and w.dtype == torch.float32 and rows >= ROWS and _packs(w):
        return Packed(w, rows)
    return Times(w.t().contiguous())


class Times:
    """By the weight (into, out)."""

    def __init__(self, w: Tensor):
        self.w = w

    def into(self, out: Tensor, x: Tensor) -> None:
        """`out = x w`."""
        torch.mm(x, self.w, out=out)

    def onto(self, out: Tensor, x: Tensor) -> None:
        """`out += x w`."""
        out.addmm_(x, self.w)

    def plus(self, out: Tensor, c: Tensor, x: Tensor) -> None:
        """`out = c + x w`: two calls take 9.3 us where addmm, which first copies, takes 13.1."""
        self.into(out, x)
        torch.add(c, out, out=out)


class ByRows(Times):
    """Each thread multiplies its own rows: none waits for what another core has just written."""

    def __init__(self, w: Tensor, threads: int):
        super().__init__(w)
        self.threads, self.each = threads, w.expand(threads, *w.shape)

    def into(self, out: Tensor, x: Tensor) -> None:
        if out.is_contiguous():
            torch.bmm(self._apart(x), self.each, out=self._apart(out))
        else:
            super().into(out, x)

    def onto(self, out: Tensor, x: Tensor) -> None:
        if out.is_contiguous():
            self._apart(out).baddbmm_(self._apart(x), self.each)
        else:
            super().onto(out, x)

    def _apart(self, x: Tensor) -> Tensor:
        return x.view(self.threads, -1, x.shape[-1])


class Packed(Times):
    """By a weight in MKL's own layout, for products with so many rows."""

    def __init__(self, w: Tensor, rows: int):
        self.given, self.rows = w.contiguous(), rows
        self.packed = _pack(self.given, rows)

    def product(self, x: Tensor) -> Tensor:
        return _by_packed(x, self.packed, self.given, self.rows)

    def into(self, out: Tensor, x: Tensor) -> None:
        out.copy_(self.product(x))

    def onto(self, out: Tensor, x: Tensor) -> None:
        out.add_(self.product(x))

    def plus(self, out: Tensor, c: Tensor, x: Tensor) -> None:
        torch.add(c, self.product(x), out=out)


def _packs(w: Tensor) -> bool:
    """Whether MKL's layout is the faster one."""
    return (w.shape[0] > w.shape[1] and w.numel() >= 1 << 17) or w.numel() >= 1 << 20


def _pack(w: Tensor, rows: int) -> Tensor:
    return torch.ops.mkl._mkl_reorder_linear_weight.default(w, rows)  # type: ignore[no-any-return]


def _by_packed(x: Tensor, packed: Tensor, w: Tensor, rows: int) -> Tensor:
    return torch.ops.mkl._mkl_linear.default(x, packed, w, None, rows)  # type: ignore[no-any-return]


# not public: looked for and tried out once
PACKS = not AMD and works(lambda x, w: _by_packed(x, _pack(w, 2), w, 2))
