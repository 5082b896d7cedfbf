"""Hops over one memory as kernels: one launch runs all hops forward, and one all hops backward.

The backward recomputes the scores from the queries of the hops and their logsumexp. Torch computes
the gradients of weights between hops, as products over all examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.triton.attention.exits import TileExit, remaining_graph
from graphnn.backends.triton.attention.to_kernel import TileTranslator, TranslatedKernel
from graphnn.backends.triton.attention.trusted import TrustedKernels, layouts_of
from graphnn.ir.graph import IR, Node
from graphnn.kernels.attention.emit import AttentionSource
from graphnn.kernels.attention.hops import emit
from graphnn.kernels.attention.launch import MIN_PART, TARGET_PROGRAMS, AttentionLauncher
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.ir.contraction import AttentionProgram, Store
from graphnn.kernels.ir.program import Op, Tensor, Unsupported
from graphnn.planner.attention.hops import Hops
from graphnn.planner.autodiff.hops import Backward, forward
from graphnn.planner.autodiff.softmax import gradients
from graphnn.planner.pipeline import hops_backward

# sums over the axis, and their names in kernels
SUMS = {"axis_sum": "column_sum", "axis_logsumexp": "column_logsumexp"}


class HopTranslator(TileTranslator):
    """Translates the nodes of a graph of hops.

    Those in `wide` are read in full precision; those in `softs` are softmaxes that are computed
    online, in a loop over the axis.
    """

    def __init__(
        self,
        ir: IR,
        axis: str,
        wide: frozenset[int] = frozenset(),
        softs: frozenset[int] = frozenset(),
    ):
        super().__init__(ir)
        self.axis, self.wide, self.softs = axis, wide, softs

    def need(self, i: int) -> str:
        """Return the operation that computes a node; it is added after those that it reads."""
        if i in self.softs and i not in self.named:
            node = self.ir[i]
            note = f"softmax over {self.axis}"
            score = self.need(node.inputs[0])
            self.named[i] = self.put(Op(self.fresh("soft"), "online_softmax", (score,), note=note))
        return super().need(i)

    def _translate(self, node: Node) -> str:
        over = node.attrs.get("axis") == self.axis or node.attrs.get("contract") == {self.axis}
        if over and (node.op in SUMS or node.op == "einsum"):
            sub = {"sub": node.attrs["sub"]} if node.op == "einsum" else {}
            return self._summed(node, SUMS.get(node.op, "column_sum"), sub)
        return super()._translate(node)

    def _summed(self, node: Node, kind: str, attrs: dict[str, str]) -> str:
        note = f"{node.label}, {node.site}" if node.site else node.label
        name = self.fresh(f"{node.name or node.op}_over")
        self.put(Op(name, kind, self._args(node), node.shape, "float", attrs, note))
        return self._make(node, "pointwise", [name], node.shape, template="{0}")

    def _storage_kind(self, node: Node) -> str:
        return "acc" if node.id in self.wide else super()._storage_kind(node)


@dataclass
class HopBackward:
    """The backward kernel, its arguments, and the torch code from what it stores to gradients."""

    run: AttentionLauncher
    kernel: TranslatedKernel
    code: Backward
    after: Function | None
    places: dict[int, int]
    direct: dict[int, int]
    by_torch: Function | None = None


class HopKernels:
    """Runs hops by two kernels. Raises Unsupported if there can be none."""

    def __init__(
        self, part: Hops, passes: frozenset[str], executor: Executor, float32: str | None = None
    ):
        self.part, self.passes, self.executor = part, passes, executor
        self.float32 = float32
        self.blocks = part.ir.layout(part.axes)
        self.name = function_name(f"hops over {part.axis}")
        self.trusted = TrustedKernels(part.name, executor, part.ir, (), self.blocks)
        made = self.made = forward(part)
        stored = [*part.results, *part.sums, *part.softs]
        ends = [made.at[i] for i in (*part.results, *part.sums)]
        ends += [made.peaks[i] for i in part.softs]
        self.kept = [part.ir[i] for i in stored[len(part.results) :]]
        self.ends = ends
        softs = frozenset(made.softs.values())
        self.forward_kernel = self._kernel(made.ir, ends, self.name, softs=softs)
        self.run = AttentionLauncher(
            emit(self.forward_kernel.program), executor, float32=self.float32, target_programs=0
        )
        self._backwards: dict[Any, HopBackward] = {}
        floating = tuple(part.ir[i].dtype.is_floating_point for i in part.reads)
        self.full = floating, (True,) * len(part.results)
        self.backward_of(*self.full)

    def _kernel(
        self, ir: IR, ends: Sequence[int], name: str, **kinds: frozenset[int]
    ) -> TranslatedKernel:
        """Return the kernel that stores the values of nodes."""
        ops = HopTranslator(ir, self.part.axis, **kinds)
        stores: list[Store] = []
        for i in ends:
            kind = "element" if self.part.axis in ir[i].axes else "row"
            op = ops.need(i)
            tensor = Tensor(ops.argument(f"{op}_out"), ops.ops[op].shape, ir.layout(ir[i].axes))
            stores.append(Store(op, tensor, kind))
        title = f"{self.part.name}, one program per example."
        roles = self.blocks, (), (self.part.axis,)
        tensors, made = tuple(ops.tensors), tuple(ops.ops.values())
        return TranslatedKernel(
            AttentionProgram(name, title, *roles, tensors, made, tuple(stores)), ops.reads, [*ends]
        )

    def backward_of(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> HopBackward:
        """Return the backward for the reads that need a gradient, given those of some results."""
        if (wanted, present) not in self._backwards:
            self._backwards[wanted, present] = self._derive(wanted, present)
        return self._backwards[wanted, present]

    def _derive(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> HopBackward:
        part = self.part
        reads = [i for i, w in zip(part.reads, wanted, strict=True) if w]
        results = [i for i, p in zip(part.results, present, strict=True) if p]
        code = hops_backward(part, reads, results)
        ends = self._exits(code.ir)
        wide = frozenset((*part.sums, *code.peaks.values()))
        kernel = self._kernel(code.ir, list(ends), f"{self.name}_backward", wide=wide)
        direct = {}
        for k, i in enumerate(reads):
            out = code.ir.outputs.get(f"d{i}", -1)
            if out in ends and ends[out].axes == part.ir[i].axes:
                direct[k] = out
        places: dict[int, int] = {}
        ir, outs = gradients(remaining_graph(code.ir, ends, places), reads)
        rest = [k for k in range(len(reads)) if k not in direct]
        pairs = [(outs[k], part.ir[reads[k]]) for k in rest]
        title = f"Gradients of {part.name} from what its kernel stores."
        names = [*self._given(code, results), *places.values()]
        after = None
        if rest:
            after = write(ir, f"{self.name}_gradients", names, pairs, title, self.passes)
        run = AttentionLauncher(
            emit(kernel.program), self.executor, float32=self.float32, target_programs=0
        )
        return HopBackward(run, kernel, code, after, places, direct)

    def _given(self, code: Backward, results: Sequence[int]) -> list[int]:
        """Return the nodes of the backward's arguments, in order."""
        part = self.part
        peaks = [code.peaks.get(i, -1 - k) for k, i in enumerate(part.softs)]
        flows = [code.cotangents.get(i, -1000 - k) for k, i in enumerate(results)]
        return [*part.reads, *part.sums, *peaks, *flows]

    def _exits(self, ir: IR) -> dict[int, TileExit]:
        """Return the values of one example that sums over examples read, in a derived graph."""
        part, after = self.part, set[int]()
        found: dict[int, TileExit] = {}

        def leave(i: int) -> None:
            node = ir[i]
            if i in after or i in found or node.op in ("given", "const", "size") or not node.axes:
                return
            if node.axes - {part.axis} != part.axes:
                raise Unsupported(f"'{node.label}' varies over only some of an example's axes")
            kind = "element" if part.axis in node.axes else "row"
            found[i] = TileExit(i, (i,), "", kind, node.axes, frozenset())

        for node in ir:
            axes = frozenset().union(*(ir[i].axes for i in node.inputs)) - {part.axis}
            if any(i in after for i in node.inputs) or not axes <= node.axes:
                for i in node.inputs:
                    leave(i)
                after.add(node.id)
        for i in ir.outputs.values():
            leave(i)
        return found

    def split(self, sizes: Mapping[str, int]) -> bool:
        """Return whether a contraction's loop over keys would be split; that of hops cannot be."""
        programs = math.prod([sizes[a] for a in self.blocks])
        return min(TARGET_PROGRAMS // max(programs, 1), sizes[self.part.axis] // MIN_PART) > 1

    def forward(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]
    ) -> list[torch.Tensor]:
        """Return the results, and the values saved for the backward."""
        layouts = lambda: layouts_of(self.part.ir, self.part.reads)
        run, by_torch = self._forward, self._forward_by_torch
        return self.trusted("forward", None, tensors, sizes, run, by_torch, layouts)

    @cached_property
    def _forward_code(self) -> Function:
        pairs = [(i, self.made.ir[i]) for i in self.ends]
        title = f"{self.part.name}: results, and what the backward reads."
        name = f"{self.name}_by_torch"
        return write(self.made.ir, name, self.part.reads, pairs, title, self.passes)

    def _forward_by_torch(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]
    ) -> list[torch.Tensor]:
        """Return what `forward` does, by torch code, which adds in float32 or wider as well."""
        kind, acc = _kinds(tensors)
        code = self._forward_code
        outs = code.call(_widened(tensors, acc), [sizes[a] for a in code.axes])
        kinds = [kind] * len(self.part.results) + [acc] * len(self.kept)
        return [x.to(k) for x, k in zip(outs, kinds, strict=True)]

    def _forward(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]
    ) -> list[torch.Tensor]:
        kind, acc = _kinds(tensors)
        values = dict(zip(self.part.reads, tensors, strict=True))
        kinds = [kind] * len(self.part.results) + [acc] * len(self.kept)
        outs = self.run([values[i] for i in self.forward_kernel.reads], sizes, kinds)
        return [x[0] for x in outs]

    def backward(
        self,
        tensors: Sequence[torch.Tensor],
        kept: Sequence[torch.Tensor],
        flows: Sequence[torch.Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[torch.Tensor]:
        """Return the gradients of the wanted reads, given those of some results."""
        present = tuple(f is not None for f in flows)
        variant = tuple(wanted), present
        self.backward_of(*variant)
        saved = len(tensors) + len(kept)

        def parts(given: Sequence[torch.Tensor]) -> tuple[Any, Any, Any]:
            flowing = iter(given[saved:])
            some = [next(flowing) if p else None for p in present]
            return given[: len(tensors)], given[len(tensors) : saved], some

        given = [*tensors, *kept, *(f for f in flows if f is not None)]
        reads = layouts_of(self.part.ir, self.part.reads)
        return self.trusted(
            *("backward", variant, given, sizes),
            lambda given, known: self._backward(*parts(given), wanted, known),
            lambda given, known: self._backward_by_torch(*parts(given), wanted, known),
            lambda: [*reads, *[tuple(self.blocks)] * (len(given) - len(tensors))],
        )

    def _backward_by_torch(
        self,
        tensors: Sequence[torch.Tensor],
        kept: Sequence[torch.Tensor],
        flows: Sequence[torch.Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[torch.Tensor]:
        """Return what `backward` does, by torch code, which adds in float32 or wider as well."""
        part, present = self.part, tuple(f is not None for f in flows)
        made = self.backward_of(tuple(wanted), present)
        reads = [i for i, w in zip(part.reads, wanted, strict=True) if w]
        results = [i for i, p in zip(part.results, present, strict=True) if p]
        if made.by_torch is None:
            ir, ends = gradients(made.code.ir, reads)
            pairs = [(i, part.ir[k]) for i, k in zip(ends, reads, strict=True)]
            title = f"Gradients of {part.name}."
            names = self._given(made.code, results)
            name = f"{self.name}_gradients_by_torch"
            made.by_torch = write(ir, name, names, pairs, title, self.passes)
        given = [*tensors, *kept, *(f for f in flows if f is not None)]
        lengths = [sizes[a] for a in made.by_torch.axes]
        outs = made.by_torch.call(_widened(given, _kinds(tensors)[1]), lengths)
        dtypes = [t.dtype for t, w in zip(tensors, wanted, strict=True) if w]
        return [x.to(dtype) for x, dtype in zip(outs, dtypes, strict=True)]

    def _backward(
        self,
        tensors: Sequence[torch.Tensor],
        kept: Sequence[torch.Tensor],
        flows: Sequence[torch.Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[torch.Tensor]:
        present = tuple(f is not None for f in flows)
        made = self.backward_of(tuple(wanted), present)
        kind, acc = _kinds(tensors)
        results = [i for i, p in zip(self.part.results, present, strict=True) if p]
        given = [*tensors, *kept, *(f for f in flows if f is not None)]
        values = dict(zip(self._given(made.code, results), given, strict=True))
        whole = set(made.direct.values())
        kinds = [kind if i in whole else acc for i in made.kernel.stores]
        outs = made.run([values[i] for i in made.kernel.reads], sizes, kinds)
        kinds_stored = [s.kind for s in made.kernel.program.stores]
        parts = [x if k == "element" else x[0] for x, k in zip(outs, kinds_stored, strict=True)]
        stored = dict(zip(made.kernel.stores, parts, strict=True))
        found = {k: stored[i] for k, i in made.direct.items()}
        dtypes = [t.dtype for t, w in zip(tensors, wanted, strict=True) if w]
        if made.after is not None:
            more = [stored[i] for i in made.places]
            lengths = [sizes[a] for a in made.after.axes]
            rest = iter(made.after.call([*given, *more], lengths))
            found.update({k: next(rest) for k in range(len(dtypes)) if k not in found})
        return [found[k].to(dtype) for k, dtype in enumerate(dtypes)]

    @property
    def refused(self) -> list[str]:
        """The directions whose kernels were refused, and why, as text."""
        return self.trusted.refused

    def kernels(self) -> list[AttentionSource]:
        """Return the kernels, forward and backward."""
        return [self.run.source, self.backward_of(*self.full).run.source]

    def sources(self) -> list[str]:
        """Return the kernels, and the torch code that follows them."""
        after = self.backward_of(*self.full).after
        more = [after.source] if after is not None else []
        return [k.text for k in self.kernels()] + more


def _widened(tensors: Sequence[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    return [t.to(dtype) if t.is_floating_point() else t for t in tensors]


def _kinds(tensors: Sequence[torch.Tensor]) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of a call's numbers, and the one in which they are added up."""
    kind = next(t.dtype for t in tensors if t.dtype.is_floating_point)
    return kind, torch.promote_types(kind, torch.float32)
