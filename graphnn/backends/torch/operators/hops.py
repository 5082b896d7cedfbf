"""Hops over one memory as torch operators that autograd and torch.compile know.

`graphnn::hops` returns the results, and for `graphnn::hops_backward` the sums over the axis and the
log-sum-exp of each hop's scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.operators.attention import in_common_dtype
from graphnn.backends.torch.operators.autograd import derive, empty_gradients
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import under_transform
from graphnn.ir.graph import Node
from graphnn.planner.attention.hops import Hops


class HopsEngine(Protocol):
    """Computes hops; `kept` are nodes with the shapes of what is saved for the backward."""

    kept: list[Node]

    @property
    def refused(self) -> list[str]:
        """Why kernels do not run, as text."""
        ...

    def split(self, sizes: Mapping[str, int]) -> bool:
        """Whether one launch per hop is faster for these sizes."""
        ...

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]: ...

    def backward(
        self,
        tensors: Sequence[Tensor],
        kept: Sequence[Tensor],
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]: ...

    def sources(self) -> list[str]: ...


class HopsOperator:
    """Hops as an operator: by `engine`, or as one contraction after another.

    `single` computes the latter: it is a program's `main`, whose inputs are numbered.
    """

    def __init__(
        self,
        part: Hops,
        passes: frozenset[str],
        single: Callable[..., list[Tensor]],
        engine: HopsEngine | None = None,
        why: str = "",
    ):
        """`why` is the reason why there are no kernels."""
        self.part, self.single, self.engine, self.why = part, single, engine, why
        self.floating = [part.ir[i].dtype.is_floating_point for i in part.reads]
        pairs = [(i, part.ir[i]) for i in part.results]
        title = f"The definition of {part.name}."
        self.plain = write(part.ir, "definition", part.reads, pairs, title, passes)
        made = [*self.sources(), str(sorted(passes)), getattr(engine, "options", "torch")]
        self.key = registry.entered(part.name, "\n".join(made), self)

    @property
    def axes(self) -> list[str]:
        """The axes whose lengths are arguments of a call."""
        return list(self.part.ir.axes)

    def sizes(self, lengths: Sequence[int]) -> dict[str, int]:
        """The lengths of all axes."""
        return dict(zip(self.axes, lengths, strict=True))

    def report(self) -> list[str]:
        """How they are computed, as text for users."""
        if self.engine is None:
            return [f"falls back: {self.why}: one contraction after another"]
        rows = " x ".join(self.part.ir.layout(self.part.axes))
        return [
            "all hops in one kernel forward and one backward, one program for each of "
            f"{rows}, which loops over {self.part.axis} once per hop",
            f"if {self.part.axis} is so long, and programs so few, that loops are split: "
            "one contraction after another",
            "saved for backward: what the hops read, and one number per hop; the weights over "
            f"{self.part.axis} are recomputed",
            *self.engine.refused,
        ]

    def sources(self) -> list[str]:
        """The code that computes them."""
        return self.engine.sources() if self.engine is not None else [self.plain.source]

    def one_by_one(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """The results by one contraction per hop."""
        inputs = {str(k): t for k, t in enumerate(tensors)}
        return self.single([], inputs, {}, self.sizes(lengths), tensors[0].device)

    def definition(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """The results by torch's own operations, which have derivatives of every order."""
        sizes = self.sizes(lengths)
        return self.plain.call(tensors, [sizes[a] for a in self.plain.axes])

    def flowing(self, made: Sequence[Any]) -> list[Any]:
        """The items, of one for each result and each saved value, of the results."""
        return list(made[: len(self.part.results)])

    def saved(self, made: Sequence[Tensor]) -> Sequence[Tensor]:
        """The values of the operator that its backward reads."""
        return made[len(self.part.results) :]

    def forms(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the shapes of the results and of the saved values."""
        assert self.engine is not None
        sizes, part = self.sizes(lengths), self.part
        kind = next(t.dtype for t in tensors if t.dtype.is_floating_point)
        acc = torch.promote_types(kind, torch.float32)
        lead = [sizes[a] for a in part.ir.layout(part.axes)]
        made = [(part.ir[i].shape, kind) for i in part.results]
        made += [(n.shape if n.op != "axis_softmax" else (), acc) for n in self.engine.kept]
        return [tensors[0].new_empty([*lead, *shape], dtype=d) for shape, d in made]


def call(program: HopsOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The results; values of several floating dtypes, as under autocast, are cast to the widest."""
    tensors = in_common_dtype(program.part, tensors)
    if under_transform():
        return program.definition(tensors, sizes)
    if program.engine is None or program.engine.split(program.sizes(sizes)):
        return program.one_by_one(tensors, sizes)
    made = torch.ops.graphnn.hops(tensors, program.key, sizes)
    return made[: len(program.part.results)]  # type: ignore[no-any-return]


@torch.library.custom_op("graphnn::hops", mutates_args=())
def _hops(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    program = registry.found(key)
    assert program.engine is not None
    with torch.autocast(tensors[0].device.type, enabled=False):
        return program.engine.forward(tensors, program.sizes(sizes))


@_hops.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    return registry.traced(key).forms(tensors, sizes)


@torch.library.custom_op("graphnn::hops_backward", mutates_args=())
def _hops_backward(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    """`tensors` are the reads, the saved values, and the gradients of the results `present`."""
    program, reads = registry.found(key), len(wanted)
    assert program.engine is not None
    kept = reads + len(program.engine.kept)
    flowing = iter(tensors[kept:])
    flows = [next(flowing) if p else None for p in present]
    given = (tensors[:reads], tensors[reads:kept], flows, wanted)
    with torch.autocast(tensors[0].device.type, enabled=False):
        return program.engine.backward(*given, program.sizes(sizes))


_hops_backward.register_fake(empty_gradients)
derive(_hops, _hops_backward, "the hops")
