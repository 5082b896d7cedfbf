"""Attention statistics as kernels: reductions of values computed for each query and key.

One kernel has the queries as rows and reduces over keys. Another has the keys as rows and reduces
over queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.torch.operators.statistics_tiles import SAVED_TEXT, TiledStatistics
from graphnn.backends.triton.attention.exits import TileAxes, TileExit, find_exits, tile_axes
from graphnn.backends.triton.attention.operators import (
    AttentionKernels,
    BackwardKernels,
    KernelStage,
)
from graphnn.backends.triton.attention.to_kernel import TranslatedKernel, kernels_of_exits
from graphnn.backends.triton.attention.trusted import TrustedKernels, layouts_of
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.ir.program import Unsupported
from graphnn.planner.attention.statistics import StatisticsRegion

Tensor = torch.Tensor
# the position of the largest is stored together with the largest
ORDER = ("column_sum", "column_argmax", "column_max")


class StatisticsKernels(AttentionKernels):
    """Runs reductions by generated kernels. Raises Unsupported if there can be none."""

    part: StatisticsRegion  # type: ignore[assignment]

    def __init__(
        self,
        part: StatisticsRegion,
        passes: frozenset[str],
        executor: Executor,
        float32: str | None = None,
    ):
        self.part, self.passes, self.executor = part, passes, executor
        self.float32 = float32
        self.tiles: TileAxes = tile_axes(part)
        self.name = function_name(part.name)
        self.trusted = TrustedKernels(
            part.name, executor, part.ir, self.tiles.rows, self.tiles.blocks
        )
        self.exits = exits(part, self.tiles)
        kernels = kernels_of_exits(part, self.tiles, part.ir, self.exits, self.name, "reductions")
        self.stages = [self._stage(k) for k in kernels]
        self._backwards: dict[Any, BackwardKernels] = {}
        self.full = part.moving, (True,) * len(part.ends)
        if part.ends:
            self.backward_of(*self.full)

    @cached_property
    def statistics_by_torch(self) -> TiledStatistics:
        """The same computation by torch code."""
        return TiledStatistics(self.part, self.passes)

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """Return the results, in the dtype of the call; positions in int64."""
        by_torch = lambda given, known: self.statistics_by_torch.forward(given, known)
        return self.trusted("forward", None, tensors, sizes, self._forward, by_torch, self.layouts)

    def _forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        part = self.part
        kind, acc = self.kinds(tensors)
        values = dict(zip(part.reads, tensors, strict=True))
        found: dict[tuple[int, str], Tensor] = {}
        for stage in self.stages:
            reductions = [_reduction(stage.kernel, k) for k in range(len(stage.kernel.stores))]
            kinds = [torch.int64 if r == "column_argmax" else acc for r in reductions]
            outs = stage.run(self._arguments(stage, values), sizes, kinds)
            found.update(zip(zip(stage.kernel.stores, reductions, strict=True), outs, strict=True))
        return [self._merged(i, found, kind) for i in part.results]

    def _merged(self, i: int, found: Mapping[tuple[int, str], Tensor], kind: torch.dtype) -> Tensor:
        """Merge the parts of a loop over keys."""
        if self.part.sums(i):
            return found[i, "column_sum"].sum(0).to(kind)
        tops = found[i, "column_max"]
        if (i, "column_argmax") not in found:
            return tops.amax(0).to(kind)
        return found[i, "column_argmax"].gather(0, tops.argmax(0, keepdim=True))[0]

    def pull(
        self,
        tensors: Sequence[Tensor],
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """Return the gradients of the wanted reads, given those of some of `part.ends`."""
        present, reads = tuple(f is not None for f in flows), len(tensors)
        code = self.backward_of(tuple(wanted), present)

        def by_torch(given: Sequence[Tensor], known: Mapping[str, int]) -> list[Tensor]:
            flowing = iter(given[reads:])
            some = [next(flowing) if p else None for p in present]
            return self.statistics_by_torch.pull(given[:reads], some, wanted, known)

        ends = [i for i, p in zip(self.part.ends, present, strict=True) if p]
        return self.trusted(
            *("backward", (tuple(wanted), present)),
            [*tensors, *(f for f in flows if f is not None)],
            sizes,
            lambda given, known: self.gradients(code, given, wanted, known),
            by_torch,
            lambda: [*self.layouts(), *layouts_of(self.part.ir, ends)],
        )

    def kept(self) -> list[int]:
        """Return what a backward reads in addition: nothing."""
        return []

    def _all(self) -> tuple[list[KernelStage], list[KernelStage]]:
        return self.stages, self.backward_of(*self.full).stages if self.part.ends else []

    def report(self) -> list[str]:
        """Return how it computes, as text."""
        texts = []
        for direction, stages in zip(("forward", "backward"), self._all(), strict=True):
            rows = [s.kernel.program.name.rpartition("_")[2] for s in stages]
            by = ", ".join(f"by {r}" for r in rows)
            text = f"{direction}: {len(rows)} kernel{'s' * (len(rows) > 1)}: {by}"
            texts += [text] * bool(rows)
        return [*texts, SAVED_TEXT, *self.trusted.refused]

    def sources(self) -> list[str]:
        """Return the kernels, forward and backward, and the torch code that follows them."""
        forward, backward = self._all()
        after = self.backward_of(*self.full).after if self.part.ends else None
        texts = [s.run.source.text for s in (*forward, *backward)]
        return texts + ([after.source] if after is not None else [])


def _reduction(kernel: TranslatedKernel, k: int) -> str:
    program = kernel.program
    kind = next(op.kind for op in program.ops if op.name == program.stores[k].op)
    return kind


def exits(part: StatisticsRegion, tiles: TileAxes) -> list[TileExit]:
    """Return where results leave the tiles."""
    sums = find_exits(part.ir, part, tiles)
    found = []
    for i in part.results:
        node, over_queries = part.ir[i], part.reduced(i) != part.axis
        if part.sums(i):
            if i not in sums or sums[i].kind != ("column" if over_queries else "row"):
                raise Unsupported(
                    f"tiled kernels do not support the sum '{node.label}' at {node.site}"
                )
            found.append(sums[i])
            continue
        axes = {*tiles.blocks, *(tiles.columns if over_queries else tiles.rows)}
        kind, summed = "column" if over_queries else "row", frozenset({part.reduced(i)})
        reductions = {"axis_argmax": ["column_argmax", "column_max"]}.get(node.op, ["column_max"])
        found += [
            TileExit(i, node.inputs, "", kind, frozenset(axes), summed, r) for r in reductions
        ]
    return sorted(found, key=lambda e: ORDER.index(e.reduction))
