"""The backward of hops, and the graphs that kernels of hops are written from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, const, make
from graphnn.ops.registry import build
from graphnn.ops.sources import index_of
from graphnn.planner.algebra.simplify import simplify
from graphnn.planner.attention.hops import OVER, Hops
from graphnn.planner.autodiff.loops import Derived, differentiate
from graphnn.planner.core.loop_graph import LoopIR, merge_orders
from graphnn.planner.core.regions import Loop
from graphnn.planner.core.rewrite import keep, reachable, rewrite


@dataclass(frozen=True)
class Lowered:
    """A graph without softmaxes and lengths.

    `at` maps nodes of the original graph to its nodes, `softs` maps each softmax to its
    replacement, and `peaks` maps each softmax to the logsumexp of its scores.
    """

    ir: IR
    at: dict[int, int]
    softs: dict[int, int]
    peaks: dict[int, int]


def forward(part: Hops) -> Lowered:
    """The graph of hops with each softmax written as exp(score - logsumexp)."""
    peaks: dict[int, int] = {}
    softs: dict[int, int] = {}
    masks = Masks(part.axis)

    def rule(new: IR, node: Node) -> Expr | int | None:
        if node.op != "axis_softmax":
            return masks(new, node)
        score = masks.valid(new, node, float("-inf"))
        peak = peaks[node.id] = masks.logsumexp(score)
        softs[node.id] = make("soft", score, Expr(new, peak), 0.0).id
        return softs[node.id]

    at: dict[int, int] = {}
    new = _ordered(rewrite(part.ir, rule, at))
    return Lowered(new, at, softs, peaks)


class Masks:
    """Replaces reductions over ragged lengths by reductions of masked values."""

    def __init__(self, axis: str):
        self.axis = axis
        self.made: dict[tuple[object, ...], Expr] = {}
        self.tops: dict[int, int] = {}

    def __call__(self, new: IR, node: Node) -> Expr | int | None:
        if node.op not in OVER or node.attrs["axis"] != self.axis:
            return None
        if node.op == "axis_sum":
            return make("axis_sum", self.valid(new, node, 0.0), axis=self.axis)
        return self.logsumexp(self.valid(new, node, float("-inf")))

    def valid(self, new: IR, node: Node, none: float) -> Expr:
        """The operand of a node, with `none` at positions beyond the length of an example."""
        x = Expr(new, node.inputs[0])
        if len(node.inputs) == 1:
            return x
        key = (*node.inputs[:2], none)
        if key not in self.made:
            there = make("lt", index_of(new, self.axis), Expr(new, node.inputs[1]))
            self.made[key] = make("where", there, x, none)
        return self.made[key]

    def logsumexp(self, x: Expr) -> int:
        """The logsumexp over the axis; equal scores share one node."""
        if x.id not in self.tops:
            self.tops[x.id] = make("axis_logsumexp", x, axis=self.axis).id
        return self.tops[x.id]


@dataclass(frozen=True)
class Backward:
    """The gradients of the values that hops read: the outputs "d<i>" of `ir`.

    The `given` nodes are the values read, the sums over the axis (`Hops.sums`, with their own ids),
    the logsumexp of each softmax (`peaks`), and the gradients of the results (`cotangents`).
    """

    ir: IR
    peaks: dict[int, int]
    cotangents: dict[int, int]


def backward(part: Hops, wanted: Iterable[int], results: Iterable[int]) -> Backward:
    """The gradients of the reads `wanted` from those of `results`.

    Values that vary over the axis are recomputed. The gradient of a score is p (g - Σ p g), where p
    is its weight and g the gradient of the weight. The sum equals Σ of results times their
    gradients (Dao et al. 2022, FlashAttention, appendix B.4). To find these gradients, a zero is
    added to each result and differentiated.
    """
    marked, wanted = Marked(part), [*wanted]
    found = marked.derived([*wanted, *marked.zeros.values()], results)
    ir = _without_zeros(found.ir, marked, wanted)
    at: dict[int, int] = {}
    new = _ordered(rewrite(ir, Masks(part.axis), at))
    peaks = {i: at[p] for i, p in marked.peaks.items() if p in at}
    flows = {i: at[c] for i in part.results if (c := found.cotangents.get(marked.at[i], -1)) in at}
    return Backward(new, peaks, flows)


def _without_zeros(derived: IR, marked: Marked, wanted: Iterable[int]) -> IR:
    """The derived graph without the added zeros, and with the sums Σ p g inserted."""
    ir, swap = derived.copy(), dict[int, int]()
    for i in marked.zeros.values():
        if i in ir.nodes:
            swap[i] = const(ir, 0.0).id
    for softmax, delta in marked.deltas.items():
        if delta in ir.nodes:
            swap[delta] = _delta(ir, marked, softmax).id
    nodes = {
        i: replace(n, inputs=tuple(swap.get(j, j) for j in n.inputs)) for i, n in ir.nodes.items()
    }
    ir.nodes = merge_orders(nodes, {})
    outputs = {f"d{i}": ir.outputs.get(f"d{i}", -1) for i in wanted}
    ir.outputs = {key: swap.get(i, i) for key, i in outputs.items() if i >= 0}
    return simplify(keep(ir, reachable(ir, ir.outputs.values())))


def _delta(ir: IR, marked: Marked, softmax: int) -> Expr:
    """The sum over the results of a softmax times their gradients: Σ p g."""
    total: Expr = const(ir, 0.0)
    for i in marked.part.sums_of[softmax]:
        flow = ir.outputs.get(f"d{marked.zeros[i]}")
        if flow is None:
            continue
        if i not in ir.nodes:
            node = marked.ir[i]
            ir.insert(replace(node, op="given", inputs=(), attrs={"key": i, "was": node.op}))
        both = Expr(ir, i) * Expr(ir, flow)
        rank = len(both.shape)
        total = total + (make("sum", both, dims=tuple(range(rank))) if rank else both)
    return total


class Marked:
    """The graph of hops with softmaxes as exp(score - peak) and a zero added to each sum."""

    def __init__(self, part: Hops):
        self.part = part
        self.zeros: dict[int, int] = {}
        self.peaks: dict[int, int] = {}
        self.deltas: dict[int, int] = {}
        self.at: dict[int, int] = {}
        masks = Masks(part.axis)

        def rule(new: IR, node: Node) -> Expr | int | None:
            if node.op == "axis_sum" and node.id in part.sums:
                self.zeros[node.id] = self._given(new, node, "zero", node.shape)
                return make("add", Expr(new, new.insert(node)), Expr(new, self.zeros[node.id]))
            if node.op != "axis_softmax":
                return None
            score = masks.valid(new, node, float("-inf"))
            self.peaks[node.id], self.deltas[node.id] = (
                self._given(new, node, word, ()) for word in ("peak", "delta")
            )
            parts = (Expr(new, self.peaks[node.id]), Expr(new, self.deltas[node.id]))
            return make("soft", score, *parts)

        self.ir = _ordered(rewrite(part.ir, rule, self.at))

    def _given(self, new: IR, like: Node, key: str, shape: tuple[int, ...]) -> int:
        attrs = {"key": key, "was": key}
        form = {"shape": shape, "dtype": like.dtype, "axes": self.part.axes, "name": key}
        return build(new, "given", (), attrs, **form)  # type: ignore[arg-type]

    def derived(self, wanted: list[int], results: Iterable[int]) -> Derived:
        """The gradients of `wanted`; everything but the sums is recomputed."""
        part = self.part
        anew = frozenset(n.id for n in self.ir) - {*part.sums}
        reads = [*part.reads, *self.zeros.values()]
        ends = [self.at[i] for i in results]
        loop = Loop(part.axis, False, [], [])
        return differentiate(LoopIR(part.name, loop, self.ir, reads, ends, anew), wanted)


def _ordered(ir: IR) -> IR:
    ir.nodes = merge_orders(ir.nodes, {})
    return keep(ir, reachable(ir, [*ir.outputs.values()]))
