"""Loops under torch's transforms: torch.func, forward mode, vmap, and derivatives of derivatives.

A transform of a loop is a loop again (`planner.orders`): its derivative, its tangents, itself along
one more axis. `apply` runs a program by the operator, or by what tells torch how it transforms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphnn.backends.torch.runtime.active_transforms import many, watched
from graphnn.backends.torch_compile import uncompiled

if TYPE_CHECKING:
    from graphnn.backends.torch.operators.loop import LoopOperator


def apply(program: LoopOperator, tensors: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """The results of a loop."""
    count = len(program.loop.results)
    if many(tensors):
        return _each_of_many(program, tensors, sizes)[:count]
    if watched():
        return _looped(program, sizes, tensors)[:count]
    train = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    results = torch.ops.graphnn.loop(list(tensors), program.key, sizes, train)
    return results[:count]  # type: ignore[no-any-return]


@uncompiled
def _looped(program: LoopOperator, sizes: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor]:
    """All that a loop hands out, within a transform; torch.compile leaves that as it stands."""
    return list(Looped.apply(program, tuple(sizes), *tensors))


def pull(
    program: LoopOperator,
    saved: Sequence[Tensor],
    sizes: Sequence[int],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of the reads `wanted`; `saved` is what was read, and all that was handed out."""
    present = [g is not None for g in grads]
    wanted = program.reached(wanted, present)
    if not any(wanted):
        return [None] * len(wanted)
    tensors = [*saved, *[g.contiguous() for g in grads if g is not None]]
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if again or watched() or many(tensors):
        made = apply(program.derivative(wanted, present), tensors, sizes)
    else:
        made = torch.ops.graphnn.loop_backward(tensors, program.key, sizes, wanted, present)
    found = iter(made)
    return [next(found) if w else None for w in wanted]


class Looped(torch.autograd.Function):
    """A loop, and what each transform makes of it."""

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
        # the gradients that the backward would be given are not looked at: it is linear in them.
        # Nothing is computed in here but by `apply`: torch would not see its tangents
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
    """All that a loop hands out along one more axis, which tensors have at `dims`, and where it
    has it."""
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


def _each_of_many(
    program: LoopOperator, tensors: Sequence[Tensor], sizes: Sequence[int]
) -> list[Tensor]:
    """A loop of tensors that are several at once to autograd.

    That is an older vmap, which knows no rules: tensors are taken apart here, and put together.
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
    # as that vmap has them: one after another in memory
    return [
        t if d is None else torch._add_batch_dim(t.movedim(d, 0).contiguous(), 0, level)
        for t, d in zip(outs, where, strict=True)
    ]


def _level(tensors: Sequence[Tensor]) -> int:
    """The innermost level of that vmap at which one of the tensors is several."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return next(n for n in range(level, 0, -1) if any(_count(t, n) is not None for t in tensors))


def _count(x: Tensor, level: int) -> int | None:
    """How many a tensor is at a level; None if it is one."""
    if not many([x]):
        return None
    one, two = (torch._remove_batch_dim(x, level, n, 0).shape[0] for n in (1, 2))
    return None if (one, two) == (1, 2) else one
