"""Products on a CPU: large ones on AMD processors by oneDNN, the weights of a loop laid out for it.

`F.linear` goes to MKL, which keeps to AVX2 on AMD processors. Measured there (EPYC, 2 cores, torch
2.13): (3200, 256) x (256, 768) takes 10.6 ms by MKL, 6.7 by oneDNN; small ones gain nothing. On
Intel (Xeon with AVX-512, 2 cores) it is 2.98 by MKL, 3.18 by oneDNN.
"""

from __future__ import annotations

import pathlib
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor

# multiply-adds from which oneDNN's start-up is paid back
ENOUGH = 300_000_000


# steps from which a weight is transposed in memory before the loop: the copy of (2048, 512) takes
# as long as the transposed product of 16 rows loses in 7 steps
MANY = 16


def _amd() -> bool:
    """Whether this machine's processor is AMD's."""
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and "AuthenticAMD" in info.read_text()[:1000]


def _find() -> Any:
    """oneDNN's linear map, or None: not public, so looked for and tried out once."""
    if not torch.backends.mkldnn.is_available() or not _amd():
        return None
    try:
        run = torch.ops.mkldnn._linear_pointwise
        x, w = torch.arange(6.0).reshape(2, 3), torch.arange(12.0).reshape(4, 3)
        fits = torch.equal(run(x, w, None, "none", [], ""), x @ w.t())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return run if fits else None


_RUN = _find()


def _suits(x: Tensor, w: Tensor, work: int) -> bool:
    plain = x.dtype == w.dtype == torch.float32 and x.device.type == "cpu"
    if _RUN is None or not plain or work < ENOUGH:
        return False
    return not torch.compiler.is_compiling() and not torch.is_autocast_enabled("cpu")


def _multiply(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return _RUN(x.contiguous(), w.contiguous(), b, "none", [], "")


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
    if _suits(x, w, x.numel() * w.shape[0]):
        return _Linear.apply(x, w, b)  # type: ignore[no-any-return]
    if x.is_contiguous() or x.device.type != "cpu":
        return F.linear(x, w, b)
    # copied once here, and not again for the gradient of the weight
    return F.linear(x.contiguous(), w, b)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """`aᵀ b`, summed over rows: the gradient of a linear map to its weight.

    By MKL: oneDNN would want both transposed in memory, which costs more than it gains.
    """
    return a.t() @ b


def turned(w: Tensor, steps: int) -> Tensor:
    """`wᵀ` for a product at each of `steps` steps, in memory so where that pays.

    (16, 512) x (512, 1024) takes 0.062 ms with the copy, 0.116 without (CPU, 2 cores, MKL).
    """
    return w.t().contiguous() if steps >= MANY and w.device.type == "cpu" else w.t()
