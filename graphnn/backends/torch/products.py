"""Products on a CPU: results in memory that is used again, and by oneDNN where MKL is slow.

A fresh result of megabytes costs page faults: (3200, 256) x (256, 768) takes 3.2 ms into memory
that is there, 5.1 into memory that the system has to find (Xeon, 2 cores, float32). And MKL
keeps to AVX2 on AMD processors: the same takes 10.6 ms by MKL, 6.7 by oneDNN (EPYC, 2 cores, torch
2.13); small ones gain nothing. On Intel it is 2.98 by MKL, 3.18 by oneDNN.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.backends.torch.buffers import SMALLEST, buffer

Tensor = torch.Tensor

# multiply-adds from which oneDNN's start-up is paid back
ENOUGH = 300_000_000
# steps from which a weight is laid out anew before the loop: transposing (2048, 512) takes as
# long as its product with 16 rows loses in 7 steps where it is not
MANY = 16


def _amd() -> bool:
    """Whether this machine's processor is AMD's."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text()[:1000]


def _works(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether operators that are not public are there, and give `x wᵀ`."""
    x, w = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3)
    try:
        return torch.equal(product(x, w), x @ w.t())
    except (AttributeError, RuntimeError, TypeError):
        return False


def _by_onednn(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    found = torch.ops.mkldnn._linear_pointwise(x.contiguous(), w.contiguous(), b, "none", [], "")
    return found  # type: ignore[no-any-return]


def _pack(w: Tensor, rows: int) -> Tensor:
    """A weight in MKL's own layout, for products with so many rows."""
    return torch.ops.mkl._mkl_reorder_linear_weight.default(w, rows)  # type: ignore[no-any-return]


def _by_packed(x: Tensor, packed: Tensor, w: Tensor, rows: int) -> Tensor:
    return torch.ops.mkl._mkl_linear.default(x, packed, w, None, rows)  # type: ignore[no-any-return]


_AMD = _amd()
ONEDNN = _AMD and torch.backends.mkldnn.is_available() and _works(_by_onednn)
PACKS = not _AMD and _works(lambda x, w: _by_packed(x, _pack(w, 2), w, 2))


def _ours(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether a linear map is done here: large, on a CPU, of tensors that are nothing else."""
    operands = [x, w] if b is None else [x, w, b]
    size = x.numel() // max(x.shape[-1], 1) * w.shape[0] * x.dtype.itemsize
    if x.device.type != "cpu" or size < SMALLEST or x.dim() < 2:
        return False
    if any(v.dtype != x.dtype or not x.dtype.is_floating_point for v in operands):
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return all(type(v) in (Tensor, torch.nn.Parameter) and _bare(v) for v in operands)


def _bare(v: Tensor) -> bool:
    """Not a tensor of torch.func, which has its own rules for derivatives."""
    return not torch._C._functorch.is_functorch_wrapped_tensor(v)


def _multiply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """`x wᵀ + b`, without a derivative."""
    work = x.numel() * w.shape[0]
    if ONEDNN and x.dtype == torch.float32 and work >= ENOUGH:
        return _by_onednn(x, w, b)
    out = buffer((*x.shape[:-1], w.shape[0]), x.dtype, x.device)
    rows, into = x.reshape(-1, x.shape[-1]), out.view(-1, w.shape[0])
    if b is None:
        torch.mm(rows, w.t(), out=into)
    else:
        torch.addmm(b, rows, w.t(), out=into)
    return out


class _Linear(torch.autograd.Function):
    """F.linear and its derivative; the derivative's derivative is torch's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.biased = b is not None
        return _multiply(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, w = ctx.saved_tensors
        to_x, to_w, to_b = ctx.needs_input_grad
        rows = g.reshape(-1, g.shape[-1])
        once = not torch.is_grad_enabled()
        dx = (_multiply(g, w.t(), None) if once else g @ w) if to_x else None
        dw = outer(rows, x.reshape(-1, x.shape[-1])) if to_w else None
        return dx, dw, rows.sum(0) if ctx.biased and to_b else None


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` over the last dimension."""
    if x.device.type == "cpu":
        # copied once here, and not again for the gradient of the weight
        x = x.contiguous()
    if _ours(x, w, b):
        return _Linear.apply(x, w, b)  # type: ignore[no-any-return]
    return F.linear(x, w, b)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """`aᵀ b`, summed over rows: the gradient of a linear map to its weight.

    By MKL: oneDNN would want both transposed in memory, which costs more than it gains.
    """
    return a.t() @ b


class Times:
    """Products with one weight at each of many steps, `x wᵀ`: the weight is laid out once for all.

    In MKL's own layout where that is faster: (16, 512) x (512, 1024) takes 46 us so, 67 transposed
    in memory, 120 as it is; (32, 256) x (256, 1024) takes 45, 53, 68; smaller ones are best
    transposed (Xeon with AVX-512, 2 cores, `x` fresh from another operation).
    """

    def __init__(self, w: Tensor, steps: int, rows: int):
        self.w, self.rows = w, rows
        self.packed = _pack(w.contiguous(), rows) if _packs(w, steps, rows) else None
        many = steps >= MANY and w.device.type == "cpu"
        self.turned = w.t().contiguous() if many and self.packed is None else w.t()

    def into(self, out: Tensor, x: Tensor) -> None:
        """`out = x wᵀ`."""
        if self.packed is None:
            torch.mm(x, self.turned, out=out)
        else:
            out.copy_(_by_packed(x, self.packed, self.w, self.rows))

    def onto(self, out: Tensor, x: Tensor) -> None:
        """`out += x wᵀ`."""
        if self.packed is None:
            out.addmm_(x, self.turned)
        else:
            out.add_(_by_packed(x, self.packed, self.w, self.rows))

    def plus(self, out: Tensor, c: Tensor, x: Tensor) -> None:
        """`out = c + x wᵀ`."""
        if self.packed is None:
            # mm and add take 9.3 us where addmm, which first copies, takes 13.1 (CPU, (32, 128) x
            # (128, 256), float32)
            torch.mm(x, self.turned, out=out)
            torch.add(c, out, out=out)
        else:
            torch.add(c, _by_packed(x, self.packed, self.w, self.rows), out=out)


def _packs(w: Tensor, steps: int, rows: int) -> bool:
    """Whether MKL's layout is the faster one; it is made for one number of rows."""
    plain = w.dtype == torch.float32 and w.device.type == "cpu"
    if not PACKS or not plain or steps < MANY or rows < 16:
        return False
    wide = w.shape[0] > w.shape[1] and w.numel() >= 1 << 17
    return wide or w.numel() >= 1 << 19
