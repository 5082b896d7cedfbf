"""Loops under torch's transforms: torch.func, forward mode, vmap, and derivatives of derivatives.

A transform of a loop is a loop again (`planner.autodiff.transforms`): its derivative, its tangents,
and the loop along one more axis. `apply` runs a loop by its operator, or, under a transform, by an
autograd function with rules for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.runtime.active_transforms import legacy_batched, under_transform
from graphnn.backends.torch_compile import uncompiled


def apply(program: LoopOperator, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """The results of a loop."""
    count = len(program.loop.results)
    if legacy_batched(tensors):
        return _legacy_batched(program, tensors, sizes)[:count]
    if under_transform():
        return _looped(program, sizes, tensors)[:count]
    train = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    results = torch.ops.graphnn.loop(list(tensors), program.key, sizes, train)
    return results[:count]  # type: ignore[no-any-return]


@uncompiled
def _looped(program: LoopOperator, sizes: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor]:
    """All results of a loop under a transform; torch.compile does not trace this."""
    return list(Looped.apply(program, tuple(sizes), *tensors))


def pull(
    program: LoopOperator,
    saved: Sequence[Tensor],
    sizes: Sequence[int],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the reads `wanted`; `saved` are the reads and all results of the forward."""
    present = [g is not None for g in grads]
    wanted = program.reached(wanted, present)
    if not any(wanted):
        return [None] * len(wanted)
    tensors = [*saved, *[g.contiguous() for g in grads if g is not None]]
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if again or under_transform() or legacy_batched(tensors):
        made = apply(program.derivative(wanted, present), tensors, sizes)
    else:
        made = torch.ops.graphnn.loop_backward(tensors, program.key, sizes, wanted, present)
    found = iter(made)
    return [next(found) if w else None for w in wanted]


class Looped(torch.autograd.Function):
    """A loop with its derivative, its tangents and its rule for vmap."""

    @staticmethod
    def forward(program: LoopOperator, sizes: tuple[int, ...], *tensors: Tensor) -> Any:
        given = [t.contiguous() for t in tensors]
        return tuple(torch.ops.graphnn.loop(given, program.key, list(sizes), True))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.program, ctx.sizes, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*(t for t in output if not t.is_floating_point()))
        ctx.save_for_backward(*tensors, *output)
        ctx.save_for_forward(*tensors, *output)

    @staticmethod
    @uncompiled
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        able = zip(ctx.needs_input_grad[2:], ctx.program.floating(), strict=True)
        wanted = [w and f for w, f in able]
        return None, None, *pull(ctx.program, ctx.saved_tensors, ctx.sizes, grads, wanted)

    @staticmethod
    def jvp(ctx: Any, *given: Any) -> Any:
        program, tangents = ctx.program, given[2:]
        able = zip(tangents, program.floating(), strict=True)
        moving = [t is not None and f for t, f in able]
        outs = ctx.saved_tensors[len(tangents) :]
        made = [t.is_floating_point() for t in outs]
        flows = [t for t, m in zip(outs, made, strict=True) if m]
        steps = [t for t, m in zip(tangents, moving, strict=True) if m]
        # the backward is linear in the gradients it is given: their values do not matter here.
        # Compute only by `apply`: torch would lose the tangents of anything else
        tensors = [*ctx.saved_tensors, *flows, *steps]
        found = iter(apply(program.tangent(moving, made), tensors, ctx.sizes))
        return tuple(next(found) if m else None for m in made)

    @staticmethod
    def vmap(  # type: ignore[override]
        info: Any, dims: Any, program: LoopOperator, sizes: tuple[int, ...], *tensors: Tensor
    ) -> Any:
        return along(program, tensors, dims[2:], (*sizes, info.batch_size))


def along(
    program: LoopOperator, tensors: Sequence[Tensor], dims: Sequence[int | None], sizes: Any
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """All results of a loop along one more axis, and the dimension of that axis in each.

    Tensors have the axis at `dims`.
    """
    whole = program.mapped([d is not None for d in dims])
    ir, axis = whole.loop.ir, list(whole.loop.ir.axes)[-1]
    reads = [ir.layout(ir[i].axes) for i in whole.loop.reads]
    given = [
        t if d is None else t.movedim(d, len(axes) - 1)
        for t, d, axes in zip(tensors, dims, reads, strict=True)
    ]
    made = [ir.layout(ir[i].axes) for i in whole.loop.results]
    outs = Looped.apply(whole, tuple(sizes), *given)[: len(made)]
    return outs, tuple(len(axes) - 1 if axis in axes else None for axes in made)


def _legacy_batched(
    program: LoopOperator, tensors: Sequence[Tensor], sizes: Sequence[int]
) -> list[Tensor]:
    """A loop under the legacy vmap of autograd (is_grads_batched, vectorize=True).

    That vmap has no rules for custom functions: tensors are unwrapped here, and wrapped again.
    """
    level = _level(tensors)
    count = next(n for t in tensors if (n := _count(t, level)) is not None)
    carrying = [_count(t, level) is not None for t in tensors]
    given = [
        torch._remove_batch_dim(t, level, count, 0) if c else t
        for t, c in zip(tensors, carrying, strict=True)
    ]
    dims = [0 if c else None for c in carrying]
    outs, where = along(program, given, dims, (*sizes, count))
    # that vmap expects the batch to be the first dimension in memory
    return [
        t if d is None else torch._add_batch_dim(t.movedim(d, 0).contiguous(), 0, level)
        for t, d in zip(outs, where, strict=True)
    ]


def _level(tensors: Sequence[Tensor]) -> int:
    """The innermost level of that vmap at which one of the tensors is batched."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return next(n for n in range(level, 0, -1) if any(_count(t, n) is not None for t in tensors))


def _count(x: Tensor, level: int) -> int | None:
    """The batch size of a tensor at a level; None if it is not batched there."""
    if not legacy_batched([x]):
        return None
    one, two = (torch._remove_batch_dim(x, level, n, 0).shape[0] for n in (1, 2))
    return None if (one, two) == (1, 2) else one
