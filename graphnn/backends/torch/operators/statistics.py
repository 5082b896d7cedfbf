"""Reductions of what is computed for each query and key, as torch operators: known to autograd and
to torch.compile. `graphnn::tally` gives them, `graphnn::tally_backward` their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphnn.backends.torch.operators import attention
from graphnn.backends.torch.operators.attention import AttentionOperator, of_one_kind
from graphnn.backends.torch.operators.attention_tiles import kind_of
from graphnn.backends.torch.operators.autograd import alike, derive
from graphnn.backends.torch.operators.statistics_tiles import Reduced
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import watched
from graphnn.planner.attention.statistics import Tally


class Engine(Protocol):
    """What computes reductions."""

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]: ...

    def pull(
        self,
        tensors: Sequence[Tensor],
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]: ...

    def leaves(self, sizes: Mapping[str, int]) -> bool: ...

    def sources(self) -> list[str]: ...

    def says(self) -> list[str]: ...


class StatisticsOperator(AttentionOperator):
    """Code of reductions. `engine` computes them, by tiles of torch code unless given."""

    part: Tally

    def __init__(
        self, part: Tally, passes: frozenset[str], engine: Engine | None = None, why: str = ""
    ):
        self.tallies: Engine = Reduced(part, passes) if engine is None else engine
        super().__init__(part, passes, self.tallies, why)  # type: ignore[arg-type]
        self._plain = self._written()

    def forms(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the results' shapes."""
        part, sizes = self.part, self.sizes(lengths)
        kind = kind_of(zip(tensors, (part.ir[i] for i in part.reads), strict=True))
        made = []
        for node in (part.ir[i] for i in part.results):
            shape = [*(sizes[a] for a in part.ir.layout(node.axes)), *node.shape]
            dtype = kind if node.dtype.is_floating_point else node.dtype
            made.append(tensors[0].new_empty(shape, dtype=dtype))
        return made

    def flowing(self, made: Sequence[Any]) -> list[Any]:
        """Of something for each result, that for those which gradients come from."""
        return [x for x, i in zip(made, self.part.results, strict=True) if self.part.sums(i)]

    def saved(self, made: Sequence[Tensor]) -> Sequence[Tensor]:
        """Nothing of the results is read by the backward."""
        return ()


def call(program: AttentionOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The results of reductions, or of a contraction."""
    if not isinstance(program, StatisticsOperator):
        return attention.call(program, tensors, sizes)
    tensors = of_one_kind(program.part, tensors)
    if watched() or program.tallies.leaves(program.sizes(sizes)):
        return program.definition(tensors, sizes)
    return torch.ops.graphnn.tally(tensors, program.key, sizes)  # type: ignore[no-any-return]


@torch.library.custom_op("graphnn::tally", mutates_args=())
def _tally(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    program = registry.found(key)
    with torch.autocast(tensors[0].device.type, enabled=False):
        return program.tallies.forward(tensors, program.sizes(sizes))


@_tally.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    return registry.traced(key).forms(tensors, sizes)


@torch.library.custom_op("graphnn::tally_backward", mutates_args=())
def _tally_backward(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    program = registry.found(key)
    reads = len(program.part.reads)
    flowing = iter(tensors[reads:])
    flows = [next(flowing) if p else None for p in present]
    with torch.autocast(tensors[0].device.type, enabled=False):
        return program.tallies.pull(tensors[:reads], flows, wanted, program.sizes(sizes))


_tally_backward.register_fake(alike)
derive(_tally, _tally_backward, "the reduction")
