"""Gradients of operators that compute a part of a graph as a whole.

First derivatives are computed by a backward operator. If a second derivative may follow, they are
computed from the part's definition, by torch's own operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import legacy_batched
from graphnn.errors import DoubleBackwardError
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.gradient_paths import between


class Differentiable(Protocol):
    """What an operator runs; `floating` is which of its tensors may have a gradient."""

    key: str
    part: AttentionRegion | Hops
    floating: list[bool]

    def definition(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """The results by torch's own operations."""
        ...

    def flowing(self, made: Sequence[Any]) -> list[Any]:
        """The items, of one for each result, of the results that have gradients."""
        ...

    def saved(self, made: Sequence[Tensor]) -> Sequence[Tensor]:
        """The results of the operator that its backward reads."""
        ...


def derive(forward: Any, backward: Any, subject: str) -> None:
    """Register an operator `(tensors, key, sizes)` and its backward with autograd.

    The backward is `(tensors, key, sizes, wanted, present)`. Its tensors are those read, those
    saved, and the gradients of the results `present`; it returns a gradient for each of the
    `wanted`. `subject` begins the message of DoubleBackwardError.
    """

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        tensors, key, ctx.sizes = inputs
        ctx.set_materialize_grads(False)
        program = ctx.program = registry.found(key)  # the model may be gone before the backward
        ctx.wanted = [f and t.requires_grad for f, t in zip(program.floating, tensors, strict=True)]
        ctx.save_for_backward(*tensors, *program.saved(output))

    def pull(ctx: Any, grads: Any) -> Any:
        program, grads = ctx.program, ctx.program.flowing(grads)
        present = [g is not None for g in grads]
        flows = [g.contiguous() for g in grads if g is not None]
        found: list[Any] = [None] * len(ctx.wanted)
        wanted = reached(program, ctx.wanted, present)
        if any(wanted):
            again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
            if again or legacy_batched(flows):
                made = iter(_again(ctx, wanted, present, flows))
            else:
                given = [*ctx.saved_tensors, *flows]
                made = iter(backward(given, program.key, ctx.sizes, wanted, present))
            found = [next(made) if w else None for w in wanted]
        return found, None, None

    forward.register_autograd(pull, setup_context=setup)
    no_second_derivative(backward, subject)


def no_second_derivative(backward: Any, subject: str) -> None:
    """Raise DoubleBackwardError for a derivative of a backward operator, under torch.compile."""

    def raising(ctx: Any, *grads: Any) -> Any:
        raise DoubleBackwardError(
            f"{subject} '{registry.title(ctx.key)}' has no second derivative under torch.compile",
            got="a backward through its backward (create_graph=True)",
            wanted="first derivatives, or a call outside torch.compile",
            fix="leave torch.compile out, or compile with backend='reference'",
        )

    def remember(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.key = inputs[1]

    backward.register_autograd(raising, setup_context=remember)


def empty_gradients(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    """The results of a backward operator, uninitialised: for tracing."""
    return [torch.empty_like(t) for t, w in zip(tensors, wanted, strict=False) if w]


def reached(program: Differentiable, wanted: Sequence[bool], present: Sequence[bool]) -> list[bool]:
    """Whether each read is wanted and the results `present` depend on it.

    The gradients of the other reads are None, not zeros.
    """
    part = program.part
    ends = [i for i, p in zip(part.ends, present, strict=True) if p]
    some = between(part.ir, part.reads, ends)
    # kernels have one more argument, the positions of the best
    reads = [*part.reads, *[-1] * (len(wanted) - len(part.reads))]
    return [w and i in some for i, w in zip(reads, wanted, strict=True)]


def _again(ctx: Any, wanted: list[bool], present: list[bool], flows: list[Tensor]) -> Any:
    """Differentiable gradients, by the definition, which stores all weights."""
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        # one read may be computed from another: views keep their gradients apart
        tensors = [t.view_as(t) for t in ctx.saved_tensors[: len(ctx.wanted)]]
        made = ctx.program.flowing(ctx.program.definition(tensors, ctx.sizes))
    outs = [o for o, p in zip(made, present, strict=True) if p]
    moving = [t for t, w in zip(tensors, wanted, strict=True) if w]
    pairs = [(o, f) for o, f in zip(outs, flows, strict=True) if o.requires_grad]
    if not pairs:
        return [torch.zeros_like(t) for t in moving]
    outs, flows = (list(x) for x in zip(*pairs, strict=True))
    return torch.autograd.grad(
        outs, moving, flows, create_graph=further, allow_unused=True, materialize_grads=True
    )
