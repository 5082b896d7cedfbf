"""Hops over one memory as kernels: all of them in one launch forward, and in one backward.

Backward, the scores are computed anew from what the hops asked with and their logsumexp; gradients
of weights between hops are left to torch, as products over all examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.backends.torch.codegen.function import write
from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.torch.codegen.scope import function_name
from graphnn.backends.triton.attention.to_kernel import Exit, Kernel, Ops, finish
from graphnn.ir.graph import IR, Node
from graphnn.kernels.attention.emit import AttentionSource
from graphnn.kernels.attention.hops import emit
from graphnn.kernels.attention.launch import MIN_PART, TARGET_PROGRAMS, AttentionLauncher
from graphnn.kernels.ir.contraction import AttentionProgram, Store
from graphnn.kernels.ir.program import Op, Tensor, Unsupported
from graphnn.planner.attention.hops import Hops
from graphnn.planner.autodiff.hops import Backward, forward
from graphnn.planner.autodiff.softmax import gradients
from graphnn.planner.pipeline import hops_backward

# sums over the axis, and what a kernel calls them
SUMS = {"axis_sum": "total", "axis_logsumexp": "lse"}


class RowOps(Ops):
    """Nodes of a graph of hops as operations; those in `wide` are kept in full precision, those in
    `softs` are softmaxes that are taken on a walk."""

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
        """The operation that makes a node, and before it those it reads."""
        if i in self.softs and i not in self.named:
            node = self.ir[i]
            note = f"softmax over {self.axis}"
            score = self.need(node.inputs[0])
            self.named[i] = self.put(Op(self.fresh("soft"), "soft", (score,), note=note))
        return super().need(i)

    def _node(self, node: Node) -> str:
        over = node.attrs.get("axis") == self.axis or node.attrs.get("contract") == {self.axis}
        if over and (node.op in SUMS or node.op == "product"):
            sub = {"sub": node.attrs["sub"]} if node.op == "product" else {}
            return self._summed(node, SUMS.get(node.op, "total"), sub)
        return super()._node(node)

    def _summed(self, node: Node, kind: str, attrs: dict[str, str]) -> str:
        note = f"{node.label}, {node.site}" if node.site else node.label
        name = self.fresh(f"{node.name or node.op}_over")
        self.put(Op(name, kind, self._args(node), node.shape, "float", attrs, note))
        return self._make(node, "point", [name], node.shape, template="{0}")

    def _kind(self, node: Node) -> str:
        return "acc" if node.id in self.wide else super()._kind(node)


@dataclass
class Gradients:
    """The backward kernel, what it is given, and the gradients made of what it stores."""

    run: AttentionLauncher
    kernel: Kernel
    code: Backward
    after: Function | None
    places: dict[int, int]
    direct: dict[int, int]


class HopKernels:
    """Runs hops by two kernels. Raises Unsupported where there can be none."""

    def __init__(
        self, part: Hops, passes: frozenset[str], interpret: bool, float32: str | None = None
    ):
        self.part, self.passes, self.interpret = part, passes, interpret
        self.float32 = float32
        self.blocks = part.ir.layout(part.axes)
        self.name = function_name(f"hops over {part.axis}")
        made = forward(part)
        stored = [*part.results, *part.sums, *part.softs]
        ends = [made.at[i] for i in (*part.results, *part.sums)]
        ends += [made.peaks[i] for i in part.softs]
        self.kept = [part.ir[i] for i in stored[len(part.results) :]]
        softs = frozenset(made.softs.values())
        self.ahead = self._kernel(made.ir, ends, self.name, softs=softs)
        self.run = AttentionLauncher(
            emit(self.ahead.program), interpret, float32=self.float32, target_programs=0
        )
        self._backwards: dict[Any, Gradients] = {}
        floating = tuple(part.ir[i].dtype.is_floating_point for i in part.reads)
        self.full = floating, (True,) * len(part.results)
        self.backward_of(*self.full)

    def _kernel(self, ir: IR, ends: Sequence[int], name: str, **kinds: frozenset[int]) -> Kernel:
        """The kernel that stores the values of nodes."""
        ops = RowOps(ir, self.part.axis, **kinds)
        stores: list[Store] = []
        for i in ends:
            kind = "each" if self.part.axis in ir[i].axes else "row"
            op = ops.need(i)
            tensor = Tensor(ops.argument(f"{op}_out"), ops.ops[op].shape, ir.layout(ir[i].axes))
            stores.append(Store(op, tensor, kind))
        title = f"{self.part.name}, one program an example."
        roles = self.blocks, (), (self.part.axis,)
        tensors, made = tuple(ops.tensors), tuple(ops.ops.values())
        return Kernel(
            AttentionProgram(name, title, *roles, tensors, made, tuple(stores)), ops.reads, [*ends]
        )

    def backward_of(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> Gradients:
        """The backward for the reads that want a gradient, given those of some results."""
        if (wanted, present) not in self._backwards:
            self._backwards[wanted, present] = self._derive(wanted, present)
        return self._backwards[wanted, present]

    def _derive(self, wanted: tuple[bool, ...], present: tuple[bool, ...]) -> Gradients:
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
        ir, outs = gradients(finish(code.ir, ends, places), reads)
        rest = [k for k in range(len(reads)) if k not in direct]
        pairs = [(outs[k], part.ir[reads[k]]) for k in rest]
        title = f"Gradients of {part.name}, from what its kernel stores."
        names = [*self._given(code, results), *places.values()]
        after = None
        if rest:
            after = write(ir, f"{self.name}_gradients", names, pairs, title, self.passes)
        run = AttentionLauncher(
            emit(kernel.program), self.interpret, float32=self.float32, target_programs=0
        )
        return Gradients(run, kernel, code, after, places, direct)

    def _given(self, code: Backward, results: Sequence[int]) -> list[int]:
        """The nodes that a backward is given, in order."""
        part = self.part
        peaks = [code.peaks.get(i, -1 - k) for k, i in enumerate(part.softs)]
        flows = [code.cotangents.get(i, -1000 - k) for k, i in enumerate(results)]
        return [*part.reads, *part.sums, *peaks, *flows]

    def _exits(self, ir: IR) -> dict[int, Exit]:
        """Where a derived graph leaves what one example has: for sums over examples."""
        part, after = self.part, set[int]()
        found: dict[int, Exit] = {}

        def leave(i: int) -> None:
            node = ir[i]
            if i in after or i in found or node.op in ("given", "const", "size") or not node.axes:
                return
            if node.axes - {part.axis} != part.axes:
                raise Unsupported(f"'{node.label}' varies over some of an example's axes only")
            kind = "each" if part.axis in node.axes else "row"
            found[i] = Exit(i, (i,), "", kind, node.axes, frozenset())

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
        """Whether a contraction's walk would be cut into parts, as one of hops cannot be."""
        programs = math.prod([sizes[a] for a in self.blocks])
        return min(TARGET_PROGRAMS // max(programs, 1), sizes[self.part.axis] // MIN_PART) > 1

    def forward(
        self, tensors: Sequence[torch.Tensor], sizes: Mapping[str, int]
    ) -> list[torch.Tensor]:
        """The results, and what is kept for the backward."""
        kind, acc = _kinds(tensors)
        values = dict(zip(self.part.reads, tensors, strict=True))
        kinds = [kind] * len(self.part.results) + [acc] * len(self.kept)
        outs = self.run([values[i] for i in self.ahead.reads], sizes, kinds)
        return [x[0] for x in outs]

    def backward(
        self,
        tensors: Sequence[torch.Tensor],
        kept: Sequence[torch.Tensor],
        flows: Sequence[torch.Tensor | None],
        wanted: Sequence[bool],
        sizes: Mapping[str, int],
    ) -> list[torch.Tensor]:
        """The gradients of the reads that are wanted, given those of some results."""
        present = tuple(f is not None for f in flows)
        made = self.backward_of(tuple(wanted), present)
        kind, acc = _kinds(tensors)
        results = [i for i, p in zip(self.part.results, present, strict=True) if p]
        given = [*tensors, *kept, *(f for f in flows if f is not None)]
        values = dict(zip(self._given(made.code, results), given, strict=True))
        whole = set(made.direct.values())
        kinds = [kind if i in whole else acc for i in made.kernel.stores]
        outs = made.run([values[i] for i in made.kernel.reads], sizes, kinds)
        ways = [s.kind for s in made.kernel.program.stores]
        parts = [x if way == "each" else x[0] for x, way in zip(outs, ways, strict=True)]
        stored = dict(zip(made.kernel.stores, parts, strict=True))
        found = {k: stored[i] for k, i in made.direct.items()}
        dtypes = [t.dtype for t, w in zip(tensors, wanted, strict=True) if w]
        if made.after is not None:
            more = [stored[i] for i in made.places]
            lengths = [sizes[a] for a in made.after.axes]
            rest = iter(made.after.call([*given, *more], lengths))
            found.update({k: next(rest) for k in range(len(dtypes)) if k not in found})
        return [found[k].to(dtype) for k, dtype in enumerate(dtypes)]

    def kernels(self) -> list[AttentionSource]:
        """The kernels, forward and backward."""
        return [self.run.source, self.backward_of(*self.full).run.source]

    def sources(self) -> list[str]:
        """The kernels, and what torch does after them."""
        after = self.backward_of(*self.full).after
        more = [after.source] if after is not None else []
        return [k.text for k in self.kernels()] + more


def _kinds(tensors: Sequence[torch.Tensor]) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of a call's numbers, and the one in which they are added up."""
    kind = next(t.dtype for t in tensors if t.dtype.is_floating_point)
    return kind, torch.promote_types(kind, torch.float32)
