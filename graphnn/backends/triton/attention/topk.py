"""The k best of many by kernels: the best of each part of the axis, the best of these, and softmax
and sums over them alone.

Of the scores only the k best of each part are stored. Values over the axis are read where they lie;
their gradients are stored for what was chosen, and added up place by place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.torch.operators.topk import flat_positions
from graphnn.backends.triton.attention.operators import Kernels
from graphnn.backends.triton.attention.to_kernel import Kernel, Ops, roles
from graphnn.kernels.attention.emit import AttentionSource, emit
from graphnn.kernels.attention.topk import MAX_K, TopKLauncher
from graphnn.kernels.ir.contraction import AttentionProgram, Top
from graphnn.kernels.ir.program import Tensor as Argument
from graphnn.kernels.ir.program import Unsupported
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.attention.topk import topk_region

Tensor = torch.Tensor


class Best:
    """Runs a contraction of which only the `top` best scores take part. Raises Unsupported where no
    kernel can find them; where none can go on from there, that is left to torch."""

    def __init__(
        self,
        part: AttentionRegion,
        passes: frozenset[str],
        interpret: bool,
        float32: str | None = None,
    ):
        if part.top > MAX_K:
            raise Unsupported(f"lists of more than {MAX_K} best do not stay in registers")
        self.part, self.picked = part, topk_region(part)
        self.kernel = finding(part, function_name(f"best {part.name}"))
        self.finder = TopKLauncher(emit(self.kernel.program), interpret, float32)
        self.inner: Kernels | None = None
        self.why = ""
        try:
            self.inner = Kernels(self.picked.part, passes, interpret, float32, self.picked)
        except Unsupported as reason:
            self.why = str(reason)

    def choose(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Tensor:
        """The positions of the best scores: (axes of the results, k), int64, in no order."""
        values = dict(zip(self.part.reads, tensors, strict=True))
        return self.finder([values[i] for i in self.kernel.reads], sizes)

    def _sizes(self, places: Tensor, sizes: Mapping[str, int]) -> dict[str, int]:
        return {**sizes, self.picked.part.axis: places.shape[-1]}

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """The results and `peak`; the last of the tensors are the positions."""
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
        """The gradients of the reads that are wanted, given those of some results."""
        assert self.inner is not None
        places = tensors[-1]
        known = self._sizes(places, sizes)
        made = self.inner.backward(tensors, results, peak, flows, wanted, known)
        reads = [(i, x) for i, x, w in zip(self.part.reads, tensors, wanted, strict=False) if w]
        return [
            self._spread(g, i, x, places, sizes) if i in self.picked.lies else g
            for (i, x), g in zip(reads, made, strict=True)
        ]

    def _spread(
        self, grad: Tensor, i: int, like: Tensor, places: Tensor, sizes: Mapping[str, int]
    ) -> Tensor:
        """The gradient of a value over the axis, from that of what was chosen; no atomics."""
        axes = self.picked.lies[i]
        rows = self.part.ir.layout(self.part.axes)
        at = flat_positions(axes, self.part.axis, rows, places, sizes)
        count, width = math.prod(sizes[a] for a in axes), math.prod(self.part.ir[i].shape)
        wide = grad.reshape(at.numel(), width).to(torch.promote_types(grad.dtype, torch.float32))
        total = torch.ops.aten.embedding_dense_backward(wide, at.reshape(-1), count, -1, False)
        return total.reshape(like.shape).to(like.dtype)

    def too_small(self, sizes: Mapping[str, int]) -> bool:
        """Whether what follows the choice is left to torch."""
        return self.inner is None

    def report(self) -> list[str]:
        """How it computes, in words for users."""
        axis = self.part.axis
        found = (
            f"the {self.part.top} best of {axis}, exactly: one kernel finds those of each part of "
            f"{axis}, and one, where there are several parts, the best of these"
        )
        if self.inner is None:
            return [found, f"falls back: {self.why}: softmax and sums over the best are torch's"]
        after = f"gradients go to the chosen alone, added up in the order of {axis}"
        return [found, *self.inner.report(), after]

    def sources(self) -> list[str]:
        """The kernels, and what torch does after them."""
        more = self.inner.sources() if self.inner is not None else []
        return [self.finder.run.source.text, *more]

    def kernels(self) -> list[AttentionSource]:
        """The kernels, but for the one that merges parts."""
        more = self.inner.kernels() if self.inner is not None else []
        return [self.finder.run.source, *more]


def finding(part: AttentionRegion, name: str) -> Kernel:
    """The kernel that finds the columns of the best scores."""
    ops, role = Ops(part.ir), roles(part)
    score, layout = ops.need(part.score), part.ir.layout(part.axes)
    best, places = (
        Argument(ops.argument(word), (part.top,), layout, kind)
        for word, kind in (("best", "acc"), ("places", "int"))
    )
    title = f"{part.name}: the {part.top} best of {part.axis}."
    axes = role.blocks, role.rows, role.columns
    top = Top(score, part.top, best, places)
    program = AttentionProgram(
        name, title, *axes, tuple(ops.tensors), tuple(ops.ops.values()), (), top=top
    )
    return Kernel(program, ops.reads, [])
