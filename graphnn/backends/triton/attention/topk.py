"""Attention to the k best positions by kernels: first a top-k, then softmax and sums over those.

One kernel finds the k best scores of each part of the axis, another the best of all parts; other
scores are not stored. Values over the axis are read at the chosen positions. Their gradients are
stored per chosen position and then summed per position of the axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.torch.operators.topk import TopK, flat_positions
from graphnn.backends.triton.attention.exits import tile_axes
from graphnn.backends.triton.attention.operators import AttentionKernels
from graphnn.backends.triton.attention.to_kernel import TileTranslator, TranslatedKernel
from graphnn.backends.triton.attention.trusted import TrustedKernels, layouts_of
from graphnn.kernels.attention.emit import AttentionSource, emit
from graphnn.kernels.attention.topk import MAX_K, TopKLauncher
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.ir.contraction import AttentionProgram, Top
from graphnn.kernels.ir.program import Tensor as Argument
from graphnn.kernels.ir.program import Unsupported
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.attention.topk import topk_region

Tensor = torch.Tensor


class TopKKernels:
    """Runs a contraction over the `top` best scores of each query.

    Raises Unsupported if no kernel can find them. If kernels cannot compute the rest, torch does,
    and `why` is the reason.
    """

    def __init__(
        self,
        part: AttentionRegion,
        passes: frozenset[str],
        executor: Executor,
        float32: str | None = None,
    ):
        if part.top > MAX_K:
            raise Unsupported(f"lists of more than {MAX_K} best do not fit in registers")
        self.part, self.picked, self.passes = part, topk_region(part), passes
        tiles = tile_axes(part)
        self.trusted = TrustedKernels(part.name, executor, part.ir, tiles.rows, tiles.blocks)
        self.kernel = topk_kernel(part, function_name(f"best {part.name}"))
        self.finder = TopKLauncher(emit(self.kernel.program), executor, float32)
        self.inner: AttentionKernels | None = None
        self.why = ""
        try:
            self.inner = AttentionKernels(self.picked.part, passes, executor, float32, self.picked)
        except Unsupported as reason:
            self.why = str(reason)

    def choose(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """Return the positions of the best scores: (axes of the results, k), int64, unordered."""
        by_torch = lambda given, known: [self.chosen_by_torch.choose(given, known)]
        return self.trusted(
            *("top-k", None, tensors, sizes, self._choose, by_torch),
            lambda: layouts_of(self.part.ir, self.part.reads),
            self._scores_of,
        )[0]

    @cached_property
    def chosen_by_torch(self) -> TopK:
        """The same computation by torch code."""
        return TopK(self.part, self.passes)

    def _choose(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        values = dict(zip(self.part.reads, tensors, strict=True))
        return [self.finder([values[i] for i in self.kernel.reads], sizes)]

    def _scores_of(
        self, found: Sequence[Tensor], tensors: Sequence[Tensor], sizes: Mapping[str, int]
    ) -> list[Tensor]:
        """Return the scores at positions, the best first, and how many are positions, and differ.

        Several positions may be right: scores that are nearly equal are rounded differently.
        """
        code, count = self.chosen_by_torch, sizes[self.part.axis]
        tile = {a: (0, sizes[a]) for a in (*code.tiles.row_axes, self.part.axis)}
        (score,) = code.scores(code.tiles.cut_all(tensors, tile), tile, sizes)
        d = self.part.ir.layout(self.part.axes | {self.part.axis}).index(self.part.axis)
        places = found[0].sort(-1).values
        there = (places >= 0) & (places < count)
        new = torch.cat([there[..., :1], places.diff(dim=-1) != 0], -1)
        picked = score.movedim(d, -1).gather(-1, places.clamp(0, max(count - 1, 0)))
        return [picked.sort(-1, descending=True).values, (there & new).sum(-1)]

    def _sizes(self, places: Tensor, sizes: Mapping[str, int]) -> dict[str, int]:
        return {**sizes, self.picked.part.axis: places.shape[-1]}

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """Return the results and `peak`; the last of the tensors has the positions."""
        assert self.inner is not None
        return self.inner.forward(tensors, self._sizes(tensors[-1], sizes))

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        peak: Tensor,
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """Return the gradients of the wanted reads, given those of some results."""
        assert self.inner is not None
        places = tensors[-1]
        known = self._sizes(places, sizes)
        made = self.inner.backward(tensors, results, peak, flows, wanted, known)
        reads = [(i, x) for i, x, w in zip(self.part.reads, tensors, wanted, strict=False) if w]
        return [
            self._spread(g, i, x, places, sizes) if i in self.picked.layouts else g
            for (i, x), g in zip(reads, made, strict=True)
        ]

    def _spread(
        self, grad: Tensor, i: int, like: Tensor, places: Tensor, sizes: Mapping[str, int]
    ) -> Tensor:
        """Return a gradient over the axis, from the one per chosen position; without atomics."""
        axes = self.picked.layouts[i]
        rows = self.part.ir.layout(self.part.axes)
        at = flat_positions(axes, self.part.axis, rows, places, sizes)
        count, width = math.prod(sizes[a] for a in axes), math.prod(self.part.ir[i].shape)
        wide = grad.reshape(at.numel(), width).to(torch.promote_types(grad.dtype, torch.float32))
        total = torch.ops.aten.embedding_dense_backward(wide, at.reshape(-1), count, -1, False)
        return total.reshape(like.shape).to(like.dtype)

    def too_small(self, sizes: Mapping[str, int]) -> bool:
        """Return whether torch computes what follows the top-k."""
        return self.inner is None

    def report(self) -> list[str]:
        """Return how it computes, as text."""
        axis = self.part.axis
        found = (
            f"the {self.part.top} best of {axis}, exactly: one kernel finds the best of each part "
            f"of {axis}, and another the best of all parts if there are several"
        )
        refused = self.trusted.refused
        if self.inner is None:
            return [
                found,
                *refused,
                f"falls back: {self.why}: torch computes softmax and sums over the best",
            ]
        after = f"only chosen positions get gradients, summed in the order of {axis}"
        return [found, *self.inner.report(), after, *refused]

    def sources(self) -> list[str]:
        """Return the kernels, and the torch code that follows them."""
        more = self.inner.sources() if self.inner is not None else []
        return [self.finder.run.source.text, *more]

    def kernels(self) -> list[AttentionSource]:
        """Return the kernels, except the one that merges parts."""
        more = self.inner.kernels() if self.inner is not None else []
        return [self.finder.run.source, *more]


def topk_kernel(part: AttentionRegion, name: str) -> TranslatedKernel:
    """Return the kernel that finds the columns of the best scores."""
    ops, tiles = TileTranslator(part.ir), tile_axes(part)
    score, layout = ops.need(part.score), part.ir.layout(part.axes)
    best, places = (
        Argument(ops.argument(word), (part.top,), layout, kind)
        for word, kind in (("best", "acc"), ("places", "int"))
    )
    title = f"{part.name}: the {part.top} best of {part.axis}."
    top = Top(score, part.top, best, places)
    program = AttentionProgram(
        name, title, *tiles.ordered(), tuple(ops.tensors), tuple(ops.ops.values()), (), top=top
    )
    return TranslatedKernel(program, ops.reads, [])
