"""The kernels of a contraction, forward and backward, and the torch code that follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.torch.operators.attention_tiles import (
    TiledAttention,
    backward_delta,
    call_dtype,
    saved_text,
)
from graphnn.backends.torch.operators.topk import flat_positions, gather_positions
from graphnn.backends.triton.attention.exits import (
    TileAxes,
    TileExit,
    find_exits,
    remaining_graph,
    tile_axes,
)
from graphnn.backends.triton.attention.to_kernel import (
    TranslatedKernel,
    forward_kernel,
    kernels_of_exits,
)
from graphnn.backends.triton.attention.trusted import TrustedKernels, layouts_of
from graphnn.ir.graph import IR
from graphnn.kernels.attention.emit import AttentionSource, emit
from graphnn.kernels.attention.launch import AttentionLauncher
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.runtime.launch import PRECISIONS
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.attention.topk import TopkRegion
from graphnn.planner.autodiff.softmax import gradients
from graphnn.planner.pipeline import attention_backward

Tensor = torch.Tensor


@dataclass
class KernelStage:
    """A kernel with its launcher."""

    run: AttentionLauncher
    kernel: TranslatedKernel


@dataclass
class BackwardKernels:
    """The kernels of a derivative.

    `direct` maps gradients to nodes that a kernel stores in their final form, `final` are those of
    them in the dtype of the call. `after` computes the other gradients from what kernels store;
    `places` maps exits to the nodes that `after` is given.
    """

    stages: list[KernelStage]
    after: Function | None
    reads: list[int]
    direct: dict[int, int]
    exits: dict[int, TileExit]
    places: dict[int, int]
    final: set[int]


@dataclass(frozen=True)
class _BackwardCall:
    """How the tensors of a backward lie in one list: reads, results, peak, gradients present."""

    reads: int
    results: int
    wanted: tuple[bool, ...]
    present: tuple[bool, ...]

    def split(
        self, given: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor, list[Tensor | None]]:
        """Return reads, results, peak and gradients; None for those that are not present."""
        after = self.reads + self.results
        flowing = iter(given[after + 1 :])
        flows = [next(flowing) if p else None for p in self.present]
        return given[: self.reads], given[self.reads : after], given[after], flows


class AttentionKernels:
    """Runs a contraction by generated kernels. Raises Unsupported if there can be none.

    With `picked` the columns are chosen positions, through which other values are read.
    """

    def __init__(
        self,
        part: AttentionRegion,
        passes: frozenset[str],
        executor: Executor,
        float32: str | None = None,
        picked: TopkRegion | None = None,
    ):
        self.part, self.passes, self.executor = part, passes, executor
        self.float32 = float32
        self.tiles: TileAxes = tile_axes(part, picked)
        self.name = function_name(part.name)
        self.trusted = TrustedKernels(
            part.name, executor, part.ir, self.tiles.rows, self.tiles.blocks
        )
        self.forward_stage = self._stage(forward_kernel(part, self.tiles, self.name))
        self._backwards: dict[Any, BackwardKernels] = {}
        self.full = part.moving, (True,) * len(part.ends)
        self.backward_of(*self.full)

    def _stage(self, kernel: TranslatedKernel) -> KernelStage:
        return KernelStage(
            AttentionLauncher(emit(kernel.program), self.executor, float32=self.float32), kernel
        )

    def backward_of(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> BackwardKernels:
        """Return the backward for the reads that need a gradient, given those of some results."""
        if (wanted, present) not in self._backwards:
            self._backwards[wanted, present] = self._derive(wanted, present)
        return self._backwards[wanted, present]

    def _derive(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> BackwardKernels:
        part = self.part
        reads = [i for i, w in zip(part.reads, wanted, strict=True) if w]
        results = [i for i, p in zip(part.ends, present, strict=True) if p]
        derived = attention_backward(part, reads, results)
        exits = find_exits(derived.ir, part, self.tiles)
        name = f"{self.name}_backward"
        stages = [
            self._stage(k)
            for k in kernels_of_exits(part, self.tiles, derived.ir, exits.values(), name)
        ]
        given = [*part.reads, *self.kept()]
        given += [derived.cotangents.get(i, -1 - k) for k, i in enumerate(results)]
        # gradients that a kernel stores in their final form
        direct = {}
        for k, i in enumerate(reads):
            out = derived.ir.outputs.get(f"d{i}", -1)
            like = part.ir[i]
            if out in exits and exits[out].axes == like.axes == exits[out].axes - exits[out].summed:
                direct[k] = out
        places: dict[int, int] = {}
        ir = remaining_graph(derived.ir, exits, places)
        rest = [k for k in range(len(reads)) if k not in direct]
        after = self._after(ir, reads, rest, given, places) if rest else None
        wide = {k for k, i in enumerate(reads) if part.ir[i].attrs.get("wide")}
        final = {i for k, i in direct.items() if k not in wide}
        return BackwardKernels(stages, after, given, direct, exits, places, final)

    def _after(
        self, ir: IR, reads: list[int], rest: list[int], given: list[int], places: dict[int, int]
    ) -> Function:
        ir, outs = gradients(ir, [reads[k] for k in rest])
        pairs = [(i, self.part.ir[reads[k]]) for i, k in zip(outs, rest, strict=True)]
        title = f"Gradients of {self.part.name} from what its kernels store."
        names = [*given, *places.values()]
        return write(ir, f"{self.name}_gradients", names, pairs, title, self.passes)

    @cached_property
    def reference(self) -> TiledAttention:
        """The same computation by torch code."""
        return TiledAttention(self.part, self.passes)

    def layouts(self) -> list[tuple[str, ...]]:
        """Return the axes that each read has as its first dimensions in memory."""
        own = self.tiles.picked.layouts if self.tiles.picked is not None else {}
        found = layouts_of(self.part.ir, self.part.reads)
        return [own.get(i, axes) for i, axes in zip(self.part.reads, found, strict=True)]

    def _unpicked(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """Return the reads as torch code has them: gathered, if positions were picked."""
        picked = self.tiles.picked
        if picked is None:
            return [*tensors]
        known = dict(zip(self.part.reads, tensors, strict=True))
        places, rows = known[picked.places], self.part.ir.layout(self.part.axes)

        def gathered(i: int) -> Tensor:
            axes = picked.layouts[i]
            at = flat_positions(axes, picked.source, rows, places, sizes)
            return gather_positions(known[i], len(axes), at)

        return [gathered(i) if i in picked.layouts else x for i, x in known.items()]

    def forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        """Return the results, and `peak` in float32 or wider."""
        return self.trusted(
            *("forward", None, tensors, sizes),
            self._forward,
            lambda given, known: self.reference.forward(self._unpicked(given, known), known),
            self.layouts,
        )

    def _forward(self, tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> list[Tensor]:
        kind, acc = self.kinds(tensors)
        stage = self.forward_stage
        given = self._arguments(stage, dict(zip(self.part.reads, tensors, strict=True)))
        kinds = [kind] * len(self.part.results)
        return merge_parts(stage.run(given, sizes, [*kinds, acc]), kind)

    def _arguments(self, stage: KernelStage, values: Mapping[int, Tensor]) -> list[Tensor]:
        return [values[i] for i in stage.kernel.reads]

    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        peak: Tensor,
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """Return the gradients of the wanted reads, given those of some of `part.ends`."""
        present = tuple(f is not None for f in flows)
        call = _BackwardCall(len(tensors), len(results), tuple(wanted), present)

        def by_torch(given: Sequence[Tensor], known: Mapping[str, int]) -> list[Tensor]:
            reads, made, top, flowing = call.split(given)
            unpicked = self._unpicked(reads, known)
            return self.reference.backward(unpicked, made, top, flowing, wanted, known)

        rows = self.part.ir.layout(self.part.axes)
        given = [*tensors, *results, peak, *(f for f in flows if f is not None)]
        return self.trusted(
            *("backward", (call.wanted, present), given, sizes),
            lambda given, known: self._backward(*call.split(given), wanted, known),
            by_torch,
            lambda: [*self.layouts(), *[rows] * (len(given) - len(tensors))],
        )

    def _backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        peak: Tensor,
        flows: Sequence[Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        code = self.backward_of(tuple(wanted), tuple(f is not None for f in flows))
        delta = backward_delta(results, flows[: len(results)], peak)
        given = [*tensors, peak, delta, *(f for f in flows if f is not None)]
        return self.gradients(code, given, wanted, sizes)

    def kept(self) -> list[int]:
        """Return what a backward reads in addition: the scores' logsumexp, and `delta`."""
        return [self.part.peak, self.part.delta]

    def gradients(
        self,
        code: BackwardKernels,
        given: Sequence[Tensor],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        """Return the gradients of the wanted ones of the first tensors given, by kernels."""
        kind, acc = self.kinds(given)
        values = dict(zip(code.reads, given, strict=True))
        stored: dict[int, Tensor] = {}
        for stage in code.stages:
            # values that are summed further are stored in full precision
            kinds = [kind if i in code.final else acc for i in stage.kernel.stores]
            outs = stage.run(self._arguments(stage, values), sizes, kinds)
            stores = stage.kernel.program.stores
            for store, i, out in zip(stores, stage.kernel.stores, outs, strict=True):
                stored[i] = self._stored(out, store.kind, code.exits[i])
        dtypes = [t.dtype for t, w in zip(given, wanted, strict=False) if w]
        return self._gradients(code, given, stored, dtypes, sizes)

    def kinds(self, tensors: Sequence[Tensor]) -> tuple[torch.dtype, torch.dtype]:
        """Return the dtype of a call's elements, and the one in which they are summed."""
        kind = call_dtype(zip(tensors, (self.part.ir[i] for i in self.part.reads), strict=False))
        return kind, torch.promote_types(kind, torch.float32)

    def _gradients(
        self,
        code: BackwardKernels,
        given: Sequence[Tensor],
        stored: Mapping[int, Tensor],
        dtypes: Sequence[torch.dtype],
        sizes: Mapping[str, int],
    ) -> list[Tensor]:
        found = {k: stored[i] for k, i in code.direct.items()}
        if code.after is not None:
            more = [stored[i] for i in code.places]
            lengths = [sizes[a] for a in code.after.axes]
            made = iter(code.after.call([*given, *more], lengths))
            found.update({k: next(made) for k in range(len(dtypes)) if k not in found})
        return [found[k].to(dtype) for k, dtype in enumerate(dtypes)]

    def _stored(self, out: Tensor, kind: str, found: TileExit) -> Tensor:
        """Return what a kernel stored, summed over parts and tiles, over its own axes."""
        if kind == "element":
            return out
        out = out[0] if out.shape[0] == 1 else out.sum(0)
        if kind == "tile":
            out = out.sum(len(self.tiles.blocks))
        axes = self.part.ir.layout(found.stored_axes(self.tiles))
        for d in reversed(range(len(axes))):
            if axes[d] not in found.axes:
                out = out.select(d, 0)
        return out

    def too_small(self, sizes: Mapping[str, int]) -> bool:
        """AttentionKernels leave nothing to torch."""
        return False

    def report(self) -> list[str]:
        """Return how it computes, as text."""
        stages = self.backward_of(*self.full).stages
        words = [s.kernel.program.name.removeprefix(f"{self.name}_backward_") for s in stages]
        rows = " x ".join((*self.tiles.blocks, *self.tiles.rows)) or "one program"
        unit = "plain units, a column at a time" if self.forward_stage.run.source.wide else "tiles"
        return [
            f"forward: one kernel, rows {rows}, columns {self.part.axis}, in {unit}",
            f"backward: {_count(len(stages), 'kernel')}: {', '.join(f'by {w}' for w in words)}",
            saved_text(self.part),
            *self._multiplied(),
            *self.trusted.refused,
        ]

    def _multiplied(self) -> list[str]:
        """Return how float32 is multiplied, if the user chose it."""
        if self.float32 is None or self.part.ir.floating != torch.float32:
            return []
        return [f"float32 is multiplied by {PRECISIONS[self.float32]}"]

    def sources(self) -> list[str]:
        """Return the kernels, forward and backward, and the torch code that follows them."""
        code = self.backward_of(*self.full)
        after = [code.after.source] if code.after is not None else []
        return [source.text for source in self.kernels()] + after

    def kernels(self) -> list[AttentionSource]:
        """Return the kernels, forward and backward."""
        stages = (self.forward_stage, *self.backward_of(*self.full).stages)
        return [s.run.source for s in stages]


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def merge_parts(outs: Sequence[Tensor], kind: torch.dtype) -> list[Tensor]:
    """Merge the parts of a loop over keys, each weighted by its share of the softmax."""
    *results, peaks = outs
    if peaks.shape[0] == 1:
        return [x[0] for x in outs]
    peak = torch.logsumexp(peaks, 0)
    shares = torch.exp(peaks - torch.where(peak == float("-inf"), 0, peak))
    found = []
    for x in results:
        wide = shares.reshape(*shares.shape, *[1] * (x.dim() - shares.dim()))
        found.append((x * wide).sum(0).to(kind))
    return [*found, peak]
