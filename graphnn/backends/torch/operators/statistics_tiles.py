"""Attention statistics by torch code on tiles of queries and keys.

Sums are added up tile by tile, always in the same order; of equal values the first is the maximum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from graphnn.backends.torch.operators.attention_tiles import TILE, Tile, TiledAttention, call_dtype
from graphnn.ops.builder import Expr, make
from graphnn.planner.attention.statistics import StatisticsRegion

Tensor = torch.Tensor


class TiledStatistics(TiledAttention):
    """Computes statistics forward and backward by generated torch code on tiles."""

    part: StatisticsRegion

    def __init__(self, part: StatisticsRegion, passes: frozenset[str]):
        self.part, self.passes = part, passes
        self.row_axes = part.ir.layout(part.axes)
        self.width = max(math.prod(n.shape) for n in part.ir if part.in_tiles(n.axes))
        self._backwards = {}
        ir = part.ir.copy()
        # the position of a maximum is tracked together with the maximum
        self.found = [i for i in part.results if ir[i].op == "axis_argmax"]
        tops = []
        for i in self.found:
            x = Expr(ir, ir[i].inputs[0])
            tops.append(make("axis_max", x, axis=part.reduced(i)).id)
        self.forward_code = self.code(ir, part.reads, [*part.results, *tops], "forward")

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """The results, in the dtype of the call; positions in int64."""
        part, ir = self.part, self.part.ir
        kind = call_dtype(zip(tensors, (ir[i] for i in part.reads), strict=True))
        acc = torch.promote_types(kind, torch.float32)
        outs = [self._start(i, tensors[0], sizes, acc) for i in part.results]
        tops = [outs[part.results.index(i)].to(acc).fill_(-math.inf) for i in self.found]
        reads, given = self._layouts(), self.with_noise(tensors, sizes)
        kept = [ir.layout(ir[i].axes) for i in (*part.results, *self.found)]
        for _, tiles in self.tiles_of(sizes):
            for tile in tiles:
                made = self.forward_code(self._parts(given, reads, tile, acc), tile, sizes)
                whole = [self.cut(x, a, tile) for x, a in zip((*outs, *tops), kept, strict=True)]
                self._merge(whole, made, tile)
        return [x.to(kind) if x.is_floating_point() else x for x in outs]

    def _start(self, i: int, like: Tensor, sizes: Mapping[str, int], acc: torch.dtype) -> Tensor:
        node = self.part.ir[i]
        shape = [*(sizes[a] for a in self.part.ir.layout(node.axes)), *node.shape]
        if node.op == "axis_max":
            return like.new_full(shape, -math.inf, dtype=acc)
        return like.new_zeros(shape, dtype=torch.int64 if node.op == "axis_argmax" else acc)

    def _merge(self, whole: Sequence[Tensor], made: Sequence[Tensor], tile: Tile) -> None:
        """Combine a tile's results with those so far, in place."""
        part = self.part
        for i, x, y in zip(part.results, whole, made, strict=False):
            if part.sums(i):
                x.add_(y)
            elif part.ir[i].op == "axis_max":
                torch.maximum(x, y, out=x)
        count = len(part.results)
        for i, top, new in zip(self.found, whole[count:], made[count:], strict=True):
            k = part.results.index(i)
            better = (new > top) | (new.isnan() & ~top.isnan())
            start = tile.get(part.reduced(i), (0, 0))[0]
            whole[k].copy_(torch.where(better, made[k] + start, whole[k]))
            top.copy_(torch.where(better, new, top))

    def pull(
        self,
        tensors: Sequence[Tensor],
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """The gradients of the wanted reads, given those of some of `part.ends`."""
        code = self._backward(tuple(wanted), tuple(f is not None for f in flows))
        ir, given, layouts = self.part.ir, [*tensors], self._layouts()
        for i, flow in zip(self.part.ends, flows, strict=True):
            if flow is not None:
                given.append(flow)
                layouts.append(ir.layout(ir[i].axes))
        return self.gradients(code, given, layouts, wanted, sizes)

    def kept(self) -> list[int]:
        """Nothing: the backward's tiles have no further arguments."""
        return []

    def report(self) -> list[str]:
        """How it computes, as text for users."""
        tile = " x ".join(self.part.ir.layout(self.part.asking))
        return [
            f"torch operations on tiles of {tile} and {self.part.axis}, at most {TILE:,} elements "
            "each, forward and backward; without tiles if one tile holds everything",
            SAVED_TEXT,
        ]


SAVED_TEXT = "saved for backward: only what is read; the weights are recomputed"
