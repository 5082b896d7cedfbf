"""Products over whole axes of the positions alone that examples have, where many are padding.

They are gathered, multiplied and put back; the first axis is the ragged one, the second the
examples', sorted by length. What lies beyond an example's end repeats its last position, or is zero
in a gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from graphnn.backends.torch.runtime.active_rows import Running
from graphnn.backends.torch.runtime.buffers import bare, buffer
from graphnn.backends.torch.runtime.linear import linear, outer

Tensor = torch.Tensor

# the share of positions that are there, and multiply-adds, up to and from which it pays: beside the
# product two copies of what it reads and makes are little
SHARE, ENOUGH = 0.9, 10_000_000


def tokens(lengths: Tensor) -> Running | None:
    """The positions that are there, on a CPU; not known while a call is traced."""
    here = lengths.device.type == "cpu" and bare(lengths)
    return Running(lengths, False) if here else None


def _pays(there: Running | None, x: Tensor, out: int) -> bool:
    if there is None or x.device.type != "cpu" or not bare(x):
        return False
    return there.count <= SHARE * x.shape[0] * x.shape[1] and x.numel() * out >= ENOUGH


def packed_linear(
    there: Running | None, x: Tensor, w: Tensor, b: Tensor | None = None, held: bool = True
) -> Tensor:
    """`x Wᵀ + b` over the last dimension."""
    if not _pays(there, x, w.shape[0]):
        return linear(x, w, b)
    found = linear(_Gather.apply(x, there), w, b)
    return _Spread.apply(found, there, x.shape[0], held)  # type: ignore[no-any-return]


def packed_outer(there: Running | None, a: Tensor, b: Tensor) -> Tensor:
    """`aᵀ b`, summed over positions and examples."""
    if not _pays(there, a, b.shape[-1]):
        return outer(a, b)
    return outer(_Gather.apply(a, there), _Gather.apply(b, there))


class _Gather(torch.autograd.Function):
    """(time, examples, n) to (positions there, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Running) -> Tensor:
        ctx.there, ctx.time = there, x.shape[0]
        out = buffer((there.count, x.shape[-1]), x.dtype, x.device)
        start = 0
        for a, b, n in there.spans:
            stop = start + (b - a) * n
            out[start:stop].view(b - a, n, -1).copy_(x[a:b, :n])
            start = stop
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return _Spread.apply(g, ctx.there, ctx.time, False), None


class _Spread(torch.autograd.Function):
    """(positions there, n) to (time, examples, n)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Running, time: int, held: bool) -> Tensor:
        ctx.there = there
        out = buffer((time, there.batch, x.shape[-1]), x.dtype, x.device)
        start = 0
        for a, b, n in there.spans:
            stop = start + (b - a) * n
            out[a:b, :n].copy_(x[start:stop].view(b - a, n, -1))
            start = stop
        if held:
            there.hold(out, 0, 1)
        else:
            there.clear(out, 0, 1)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:  # type: ignore[override]
        return _Gather.apply(g, ctx.there), None, None, None
