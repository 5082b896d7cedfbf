"""Contractions as torch operators: known to autograd, to torch.compile and to autocast.

`graphnn::attend` gives the results and the scores' log-sum-exp, from which
`graphnn::attend_backward` computes the weights anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.operators.attention_tiles import Chunked, kind_of
from graphnn.backends.torch.operators.autograd import alike, derive
from graphnn.backends.torch.operators.sdpa import Direct
from graphnn.backends.torch.operators.topk import Chosen
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import unwatched, watched
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.sdpa import dot_product
from graphnn.planner.attention.tiles import Contraction
from graphnn.planner.autodiff.softmax import plain


class Engine(Protocol):
    """What computes a contraction."""

    def choose(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Where only some take part: the positions of these, which the other calls are given as the
        last of the tensors."""
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

    def leaves(self, sizes: Mapping[str, int]) -> bool:
        """Whether so little is to be done that it is left to torch's own operations."""
        ...

    def sources(self) -> list[str]: ...

    def says(self) -> list[str]:
        """How it computes, in words for users."""
        ...


class AttentionOperator:
    """A contraction's code. `engine` computes it, by tiles of torch code unless given."""

    def __init__(
        self,
        part: Contraction,
        passes: frozenset[str],
        engine: Engine | None = None,
        why: str = "",
    ):
        """`why` says why there are no kernels, where there might be."""
        self.part, self.passes, self.why = part, passes, why
        self.chosen = Chosen(part, passes) if part.top else None
        plain_form = "match" in passes and not part.top and part.weight >= 0 > part.total
        form = dot_product(part) if plain_form else None
        self.direct = Direct(part, form) if form is not None else None
        # kernels are given the positions of the best besides
        places = self.chosen is not None and engine is not None
        self.floating = [*part.moving, *[False] * places]
        own = self.chosen is None and self.direct is None
        self.engine = Chunked(part, passes) if engine is None and own else engine
        self._plain: Function | None = None
        if isinstance(self.engine, Chunked):
            # torch.compile cannot look on while code is written
            self._plain = self._written()
        self.key = registry.entered(part.name, "\n".join(self.sources()), self)

    def says(self) -> list[str]:
        """How it is computed, in words for users."""
        way = self.direct or self.engine or self.chosen
        assert way is not None
        return way.says() + [f"falls back: {self.why}: torch computes it"] * bool(self.why)

    def sources(self) -> list[str]:
        """The code that computes it; none where torch has kernels of its own."""
        way = None if self.direct is not None else self.engine or self.chosen
        return way.sources() if way is not None else []

    @property
    def axes(self) -> list[str]:
        """The axes whose lengths a call gives."""
        return [a for a in self.part.ir.axes if a not in self.part.parts]

    def sizes(self, lengths: Sequence[int]) -> dict[str, int]:
        """The lengths of all axes."""
        own = {a: self.part.ir.axes[a].length or 0 for a in self.part.parts}
        return {**dict(zip(self.axes, lengths, strict=True)), **own}

    def forms(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the results' shapes, the log-sum-exp last."""
        part, sizes = self.part, self.sizes(lengths)
        kind = kind_of(zip(tensors, (part.ir[i] for i in part.reads), strict=True))
        acc = torch.promote_types(kind, torch.float32)
        lead = [sizes[a] for a in part.ir.layout(part.axes)]
        shapes = [(part.ir[i].shape, kind) for i in part.results] + [((), acc)]
        return [tensors[0].new_empty([*lead, *shape], dtype=d) for shape, d in shapes]

    def definition(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """The results by torch's own operations, which have derivatives of any order."""
        if self.chosen is not None:
            return self.chosen.read(tensors[:-1], tensors[-1], self.sizes(lengths))
        if self._plain is None:
            self._plain = self._written()
        sizes = self.sizes(lengths)
        return self._plain.call(tensors, [sizes[a] for a in self._plain.axes])

    def flowing(self, made: Sequence[Any]) -> list[Any]:
        """Of something for each result, that for those which gradients come from."""
        return list(made[: len(self.part.ends)])

    def saved(self, made: Sequence[Tensor]) -> Sequence[Tensor]:
        """Of what the operator gives, that which its backward reads."""
        return made

    @unwatched
    def _written(self) -> Function:
        ir = plain(self.part)
        wanted = [(i, ir[i]) for i in ir.outputs.values()]
        title = f"The definition of {self.part.name}."
        return write(ir, "definition", self.part.reads, wanted, title, self.passes)


def call(program: AttentionOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The results, and the log-sum-exp where it is read; numbers of several dtypes, as autocast
    hands out, are taken to the widest."""
    tensors = of_one_kind(program.part, tensors)
    if program.chosen is not None:
        if program.engine is None or watched():
            return program.chosen(tensors, program.sizes(sizes))
        places = torch.ops.graphnn.choose([t.detach() for t in tensors], program.key, sizes)
        tensors = [*tensors, places]
    if program.direct is not None:
        known = program.sizes(sizes)
        return program.direct(tensors, known, lambda given: program.definition(given, sizes))
    assert program.engine is not None
    if watched() or program.engine.leaves(program.sizes(sizes)):
        return program.definition(tensors, sizes)
    results = torch.ops.graphnn.attend(tensors, program.key, sizes)
    return results[: len(program.part.ends)]  # type: ignore[no-any-return]


def of_one_kind(part: Contraction | Hops, tensors: list[Tensor]) -> list[Tensor]:
    """Numbers in the widest dtype of those that are not wide anyway."""
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


@torch.library.custom_op("graphnn::choose", mutates_args=())
def _choose(tensors: list[Tensor], key: str, sizes: list[int]) -> Tensor:
    program = registry.found(key)
    with torch.autocast(tensors[0].device.type, enabled=False):
        assert program.engine is not None and not isinstance(program.engine, Chunked)
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


_attend_backward.register_fake(alike)
derive(_attend, _attend_backward, "the attention")
