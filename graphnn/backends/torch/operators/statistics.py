"""Attention statistics as torch operators that autograd and torch.compile know.

They are reductions of values for each query and key. `graphnn::statistics` returns them,
`graphnn::statistics_backward` their gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from graphnn.backends.torch.operators import attention
from graphnn.backends.torch.operators.attention import AttentionOperator, in_common_dtype
from graphnn.backends.torch.operators.attention_tiles import call_dtype
from graphnn.backends.torch.operators.autograd import derive, empty_gradients
from graphnn.backends.torch.operators.statistics_tiles import TiledStatistics
from graphnn.backends.torch.runtime import registry
from graphnn.backends.torch.runtime.active_transforms import under_transform
from graphnn.planner.attention.statistics import StatisticsRegion


class StatisticsEngine(Protocol):
    """Computes attention statistics."""

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]: ...

    def pull(
        self,
        tensors: Sequence[Tensor],
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]: ...

    def too_small(self, sizes: Mapping[str, int]) -> bool: ...

    def sources(self) -> list[str]: ...

    def report(self) -> list[str]: ...


class StatisticsOperator(AttentionOperator):
    """Attention statistics as an operator.

    `engine` computes them; by default tiles of torch code do.
    """

    part: StatisticsRegion

    def __init__(
        self,
        part: StatisticsRegion,
        passes: frozenset[str],
        engine: StatisticsEngine | None = None,
        why: str = "",
    ):
        self.statistics_engine: StatisticsEngine = engine or TiledStatistics(part, passes)
        super().__init__(part, passes, self.statistics_engine, why)  # type: ignore[arg-type]
        self._plain = self._written()

    def forms(self, tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
        """Empty tensors of the results' shapes."""
        part, sizes = self.part, self.sizes(lengths)
        kind = call_dtype(zip(tensors, (part.ir[i] for i in part.reads), strict=True))
        made = []
        for node in (part.ir[i] for i in part.results):
            shape = [*(sizes[a] for a in part.ir.layout(node.axes)), *node.shape]
            dtype = kind if node.dtype.is_floating_point else node.dtype
            made.append(tensors[0].new_empty(shape, dtype=dtype))
        return made

    def flowing(self, made: Sequence[Any]) -> list[Any]:
        """The items, of one for each result, of the results that have gradients."""
        return [x for x, i in zip(made, self.part.results, strict=True) if self.part.sums(i)]

    def saved(self, made: Sequence[Tensor]) -> Sequence[Tensor]:
        """Nothing: the backward reads no results."""
        return ()


def call(program: AttentionOperator, tensors: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The results of statistics, or of a contraction."""
    if not isinstance(program, StatisticsOperator):
        return attention.call(program, tensors, sizes)
    tensors = in_common_dtype(program.part, tensors)
    if under_transform() or program.statistics_engine.too_small(program.sizes(sizes)):
        return program.definition(tensors, sizes)
    return torch.ops.graphnn.statistics(tensors, program.key, sizes)  # type: ignore[no-any-return]


@torch.library.custom_op("graphnn::statistics", mutates_args=())
def _statistics(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    program = registry.found(key)
    with torch.autocast(tensors[0].device.type, enabled=False):
        return program.statistics_engine.forward(tensors, program.sizes(sizes))


@_statistics.register_fake
def _(tensors: list[Tensor], key: str, sizes: list[int]) -> list[Tensor]:
    return registry.traced(key).forms(tensors, sizes)


@torch.library.custom_op("graphnn::statistics_backward", mutates_args=())
def _statistics_backward(
    tensors: list[Tensor], key: str, sizes: list[int], wanted: list[bool], present: list[bool]
) -> list[Tensor]:
    program = registry.found(key)
    reads = len(program.part.reads)
    flowing = iter(tensors[reads:])
    flows = [next(flowing) if p else None for p in present]
    with torch.autocast(tensors[0].device.type, enabled=False):
        return program.statistics_engine.pull(tensors[:reads], flows, wanted, program.sizes(sizes))


_statistics_backward.register_fake(empty_gradients)
derive(_statistics, _statistics_backward, "the attention statistics")
