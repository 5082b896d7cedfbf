"""Large matmuls on a CPU: results in pooled memory, and by oneDNN if MKL is slow.

A new result of megabytes costs page faults: (3200, 256) x (256, 768) takes 3.2 ms into memory that
is mapped and 5.1 ms into memory that is not (Xeon, 2 cores, float32). MKL uses only AVX2 on AMD
processors: the same matmul takes 10.6 ms by MKL and 6.7 ms by oneDNN (EPYC, 2 cores, torch 2.13);
small ones gain nothing. On Intel it takes 2.98 ms by MKL and 3.18 ms by oneDNN.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.backends.torch.runtime.buffers import SMALLEST, bare, buffer

Tensor = torch.Tensor

# multiply-adds from which oneDNN pays back its start-up
ENOUGH = 300_000_000


def _amd() -> bool:
    """Whether this machine has an AMD processor."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text()[:1000]


def works(product: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether a function of torch that is not public exists and returns `x wᵀ`."""
    x, w = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3)
    try:
        return torch.equal(product(x, w), x @ w.t())
    except (AttributeError, RuntimeError, TypeError):
        return False


def _by_onednn(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    found = torch.ops.mkldnn._linear_pointwise(x.contiguous(), w.contiguous(), b, "none", [], "")
    return found  # type: ignore[no-any-return]


AMD = _amd()
ONEDNN = AMD and torch.backends.mkldnn.is_available() and works(_by_onednn)


def _ours(x: Tensor, w: Tensor, b: Tensor | None) -> bool:
    """Whether a linear map runs here: it is large, on a CPU, and of plain tensors of one dtype."""
    operands = [x, w] if b is None else [x, w, b]
    size = x.numel() // max(x.shape[-1], 1) * w.shape[0] * x.dtype.itemsize
    if x.device.type != "cpu" or size < SMALLEST or x.dim() < 2:
        return False
    if any(v.dtype != x.dtype or not x.dtype.is_floating_point for v in operands):
        return False
    return bare(*operands)


def _multiply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """`x wᵀ + b`, not differentiable."""
    work = x.numel() * w.shape[0]
    if ONEDNN and x.dtype == torch.float32 and work >= ENOUGH:
        return _by_onednn(x, w, b)
    out = buffer((*x.shape[:-1], w.shape[0]), x.dtype, x.device)
    rows, into = x.flatten(0, -2), out.flatten(0, -2)
    if b is None:
        torch.mm(rows, w.t(), out=into)
    else:
        torch.addmm(b, rows, w.t(), out=into)
    return out


class _Linear(torch.autograd.Function):
    """F.linear and its derivative; torch derives further derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.biased, ctx.copy = b is not None, None
        if not x.is_contiguous():
            # copy once here, and not again for the gradient of the weight
            x = ctx.copy = buffer(x.shape, x.dtype, x.device).copy_(x)
        return _multiply(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        x, w = ctx.saved_tensors
        to_x, to_w, to_b = ctx.needs_input_grad
        rows = g.flatten(0, -2)
        once = not torch.is_grad_enabled() and bare(g)
        dx = (_multiply(g, w.t(), None) if once else g @ w) if to_x else None
        x = ctx.copy if once and ctx.copy is not None else x
        dw = outer(rows, x) if to_w else None
        return dx, dw, rows.sum(0) if ctx.biased and to_b else None


def linear(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """`x Wᵀ + b` over the last dimension."""
    if _ours(x, w, b):
        return _Linear.apply(x, w, b)  # type: ignore[no-any-return]
    return F.linear(x.contiguous() if x.device.type == "cpu" else x, w, b)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """`aᵀ b`, summed over all but the last dimensions: the weight gradient of a linear map.

    By MKL: oneDNN requires both operands transposed in memory, which costs more than it gains.
    """
    # flatten by dimensions: for an empty tensor, a size of -1 is ambiguous
    return a.flatten(0, -2).t() @ b.flatten(0, -2)
