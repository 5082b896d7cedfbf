"""Attention as torch operators that autograd, torch.compile and autocast know.

`graphnn::attend` returns the results and the scores' log-sum-exp, from which
`graphnn::attend_backward` recomputes the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.operators.attention_tiles import TiledAttention, call_dtype
from graphnn.backends.torch.operators.autograd import derive, empty_gradients
from graphnn.backends.torch.operators.sdpa import TorchAttention
from graphnn.backends.torch.operators.topk import TopK
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import outside_transforms, under_transform
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.sdpa import dot_product
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.autodiff.softmax import definition


class AttentionEngine(Protocol):
    """Computes a contraction: attention over one axis."""

    def choose(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """The positions that take part, if only some do; the last tensor of the other calls."""
        ...

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]: ...

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        peak: Tensor,
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]: ...

    def too_small(self, sizes: Mapping[str, int]) -> bool:
        """Whether the problem is so small that torch's own operations do as well."""
        ...

    def sources(self) -> list[str]: ...

    def report(self) -> list[str]:
        """How it computes, as text for users."""
        ...


class AttentionOperator:
    """A contraction as an operator. `engine` computes it; by default tiles of torch code do."""

    def __init__(
        self,
        part: AttentionRegion,
        passes: frozenset[str],
        engine: AttentionEngine | None = None,
        why: str = "",
    ):
        """`why` is the reason why there are no kernels, if kernels were asked for."""
        self.part, self.passes, self.why = part, passes, why
        self.chosen = TopK(part, passes) if part.top else None
        plain_form = "match" in passes and not part.top and part.weight >= 0 > part.total
        form = dot_product(part) if plain_form else None
        self.direct = TorchAttention(part, form) if form is not None else None
        # the positions of the best are one more argument of kernels
        places = self.chosen is not None and engine is not None
        self.floating = [*part.moving, *[False] * places]
        own = self.chosen is None and self.direct is None
        self.engine = TiledAttention(part, passes) if engine is None and own else engine
        self._plain: Function | None = None
        if isinstance(self.engine, TiledAttention):
            # write the definition now: torch.compile cannot trace the code generator
            self._plain = self._written()
        made = [*self.sources(), str(sorted(passes)), getattr(engine, "options", "torch")]
        self.key = registry.entered(part.name, "\n".join(made), self)

    def report(self) -> list[str]:
        """How it is computed, as text for users."""
        engine = self.direct or self.engine or self.chosen
        assert engine is not None
        return engine.report() + [f"falls back: {self.why}: torch computes it"] * bool(self.why)

    def sources(self) -> list[str]:
        """The generated code that computes it; empty if torch's own kernels do."""
        engine = None if self.direct is not None else self.engine or self.chosen
        return engine.sources() if engine is not None else []

    @property
    def axes(self) -> list[str]:
        """The axes whose lengths are arguments of a call."""
        return [a for a in self.part.ir.axes if a not in self.part.parts]

    def sizes(self, lengths: Sequence[int]) -> dict[str, int]:
        """The lengths of all axes."""
        own = {a: self.part.ir.axes[a].length or 0 for a in self.part.parts}
        return {**dict(zip(self.axes, lengths, strict=True)), **own}

    def forms(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the results' shapes; the log-sum-exp is the last."""
        part, sizes = self.part, self.sizes(lengths)
        kind = call_dtype(zip(tensors, (part.ir[i] for i in part.reads), strict=True))
        acc = torch.promote_types(kind, torch.float32)
        lead = [sizes[a] for a in part.ir.layout(part.axes)]
        shapes = [(part.ir[i].shape, kind) for i in part.results] + [((), acc)]
        return [tensors[0].new_empty([*lead, *shape], dtype=d) for shape, d in shapes]

    def definition(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """The results by torch's own operations, which have derivatives of every order."""
        if self.chosen is not None:
            return self.chosen.read(tensors[:-1], tensors[-1], self.sizes(lengths))
        if self._plain is None:
            self._plain = self._written()
        sizes = self.sizes(lengths)
        return self._plain.call(tensors, [sizes[a] for a in self._plain.axes])

    def flowing(self, made: Sequence[Any]) -> list[Any]:
        """The items, of one for each result, of the results that have gradients."""
        return list(made[: len(self.part.ends)])

    def saved(self, made: Sequence[Tensor]) -> Sequence[Tensor]:
        """The results of the operator that its backward reads."""
        return made

    @outside_transforms
    def _written(self) -> Function:
        ir = definition(self.part)
        wanted = [(i, ir[i]) for i in ir.outputs.values()]
        title = f"The definition of {self.part.name}."
        return write(ir, "definition", self.part.reads, wanted, title, self.passes)


def call(program: AttentionOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The results, and the log-sum-exp if it is read.

    Values of several floating dtypes, as under autocast, are cast to the widest.
    """
    tensors = in_common_dtype(program.part, tensors)
    if program.chosen is not None:
        if program.engine is None or under_transform():
            return program.chosen(tensors, program.sizes(sizes))
        places = torch.ops.graphnn.topk([t.detach() for t in tensors], program.key, sizes)
        tensors = [*tensors, places]
    if program.direct is not None:
        known = program.sizes(sizes)
        return program.direct(tensors, known, lambda given: program.definition(given, sizes))
    assert program.engine is not None
    if under_transform() or program.engine.too_small(program.sizes(sizes)):
        return program.definition(tensors, sizes)
    results = torch.ops.graphnn.attend(tensors, program.key, sizes)
    return results[: len(program.part.ends)]  # type: ignore[no-any-return]


def in_common_dtype(part: AttentionRegion | Hops, tensors: list[Tensor]) -> list[Tensor]:
    """The floating tensors in their widest dtype; those that the graph marks as wide stay."""
    narrow = [
        t.is_floating_point() and not part.ir[i].attrs.get("wide")
        for t, i in zip(tensors, part.reads, strict=True)
    ]
    kinds = {t.dtype for t, n in zip(tensors, narrow, strict=True) if n}
    if len(kinds) < 2:
        return tensors
    widest = max(kinds, key=lambda d: torch.finfo(d).bits)
    return [t.to(widest) if n else t for t, n in zip(tensors, narrow, strict=True)]


@torch.library.custom_op("graphnn::attend", mutates_args=())
def _attend(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    program = registry.found(key)
    with torch.autocast(tensors[0].device.type, enabled=False):
        assert program.engine is not None
        return program.engine.forward(tensors, program.sizes(sizes))


@_attend.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    return registry.traced(key).forms(tensors, sizes)


@torch.library.custom_op("graphnn::topk", mutates_args=())
def _choose(tensors: list[Tensor], key: str, sizes: list[int]) -> Tensor:
    program = registry.found(key)
    with torch.autocast(tensors[0].device.type, enabled=False):
        assert program.engine is not None and not isinstance(program.engine, TiledAttention)
        return program.engine.choose(tensors, program.sizes(sizes))


@_choose.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int]) -> Tensor:
    program = registry.traced(key)
    part, known = program.part, program.sizes(sizes)
    lead = [known[a] for a in part.ir.layout(part.axes)]
    return tensors[0].new_empty([*lead, min(part.top, known[part.axis])], dtype=torch.int64)


@torch.library.custom_op("graphnn::attend_backward", mutates_args=())
def _attend_backward(
    tensors: list[Tensor],
    key: str,
    sizes: list[int],
    wanted: list[bool],
    present: list[bool],
) -> list[Tensor]:
    program = registry.found(key)
    reads, results = len(wanted), len(program.part.results)
    given, made = tensors[:reads], tensors[reads : reads + results]
    peak, flowing = tensors[reads + results], iter(tensors[reads + results + 1 :])
    flows = [next(flowing) if p else None for p in present]
    with torch.autocast(tensors[0].device.type, enabled=False):
        assert program.engine is not None
        return program.engine.backward(given, made, peak, flows, wanted, program.sizes(sizes))


_attend_backward.register_fake(empty_gradients)
derive(_attend, _attend_backward, "the attention")
