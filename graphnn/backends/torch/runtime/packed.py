"""Matmuls over whole axes that skip padding, if much of a batch is padding.

Valid positions are gathered, multiplied and scattered back. The first axis is the ragged one, the
second one the examples, sorted by length. Positions beyond an example's end repeat its last one, or
are zero in a gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from graphnn.backends.torch.runtime.active_rows import ActiveRows
from graphnn.backends.torch.runtime.buffers import bare, buffer
from graphnn.backends.torch.runtime.linear import linear, outer

Tensor = torch.Tensor

# it pays up to this share of valid positions, and from this many multiply-adds: the two copies of
# operand and result are then cheap next to the matmul
SHARE, ENOUGH = 0.9, 10_000_000


def valid_positions(lengths: Tensor) -> ActiveRows | None:
    """The valid positions of a batch, on a CPU; None while a call is traced."""
    here = lengths.device.type == "cpu" and bare(lengths)
    return ActiveRows(lengths, False) if here else None


def _pays(active: ActiveRows | None, x: Tensor, out: int) -> bool:
    if active is None or x.device.type != "cpu" or not bare(x):
        return False
    return active.count <= SHARE * x.shape[0] * x.shape[1] and x.numel() * out >= ENOUGH


def packed_linear(
    active: ActiveRows | None, x: Tensor, w: Tensor, b: Tensor | None = None, held: bool = True
) -> Tensor:
    """`x Wᵀ + b` over the last dimension."""
    if not _pays(active, x, w.shape[0]):
        return linear(x, w, b)
    found = linear(_Gather.apply(x, active), w, b)
    return _Spread.apply(found, active, x.shape[0], held)  # type: ignore[no-any-return]


def packed_outer(active: ActiveRows | None, a: Tensor, b: Tensor) -> Tensor:
    """`aᵀ b`, summed over positions and examples."""
    if not _pays(active, a, b.shape[-1]):
        return outer(a, b)
    return outer(_Gather.apply(a, active), _Gather.apply(b, active))


class _Gather(torch.autograd.Function):
    """(time, examples, n) to (valid positions, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, active: ActiveRows) -> Tensor:
        ctx.active, ctx.time = active, x.shape[0]
        out = buffer((active.count, x.shape[-1]), x.dtype, x.device)
        start = 0
        for a, b, n in active.spans:
            stop = start + (b - a) * n
            out[start:stop].view(b - a, n, -1).copy_(x[a:b, :n])
            start = stop
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return _Spread.apply(g, ctx.active, ctx.time, False), None


class _Spread(torch.autograd.Function):
    """(valid positions, n) to (time, examples, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, active: ActiveRows, time: int, held: bool) -> Tensor:
        ctx.active = active
        out = buffer((time, active.batch, x.shape[-1]), x.dtype, x.device)
        start = 0
        for a, b, n in active.spans:
            stop = start + (b - a) * n
            out[a:b, :n].copy_(x[start:stop].view(b - a, n, -1))
            start = stop
        if held:
            active.repeat_last(out, 0, 1)
        else:
            active.zero_padding(out, 0, 1)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return _Gather.apply(g, ctx.active), None, None, None
