"""The derivative of hops, and the forms of their graphs that kernels are written from."""

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
    """A graph without softmaxes and lengths: `at` says where the nodes of the old one are, `softs`
    what each softmax has become, and `peaks` where the logsumexp of its scores is."""

    ir: IR
    at: dict[int, int]
    softs: dict[int, int]
    peaks: dict[int, int]


def forward(part: Hops) -> Lowered:
    """The graph of hops, with a softmax as exp(score - logsumexp)."""
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
    """Sums over an axis of what is there alone, in place of sums that know lengths."""

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
        """What a node takes, with `none` beyond an example's length."""
        x = Expr(new, node.inputs[0])
        if len(node.inputs) == 1:
            return x
        key = (*node.inputs[:2], none)
        if key not in self.made:
            there = make("lt", index_of(new, self.axis), Expr(new, node.inputs[1]))
            self.made[key] = make("where", there, x, none)
        return self.made[key]

    def logsumexp(self, x: Expr) -> int:
        """Of the same scores the same node."""
        if x.id not in self.tops:
            self.tops[x.id] = make("axis_logsumexp", x, axis=self.axis).id
        return self.tops[x.id]


@dataclass(frozen=True)
class Backward:
    """The gradients of what hops read: "d<i>" among the outputs of `ir`. Given are the values read,
    the sums over the axis (`Hops.sums`, by their own ids), the logsumexp in `peaks` by softmax, and
    what flows to the results, in `cotangents`."""

    ir: IR
    peaks: dict[int, int]
    cotangents: dict[int, int]


def backward(part: Hops, wanted: Iterable[int], results: Iterable[int]) -> Backward:
    """The gradients of the reads `wanted` from those of `results`: what varies over the axis is
    computed anew.

    What flows to a score is p (g - Σ p g), p being its weight and g what flows to that; the sum is
    that of results times what flows to them (Dao et al. 2022, FlashAttention, appendix B.4). To
    learn the latter, something that is zero is added to each result, and its gradient asked for.
    """
    marked, wanted = Marked(part), [*wanted]
    found = marked.derived([*wanted, *marked.zeros.values()], results)
    ir = _settled(found.ir, marked, wanted)
    at: dict[int, int] = {}
    new = _ordered(rewrite(ir, Masks(part.axis), at))
    peaks = {i: at[p] for i, p in marked.peaks.items() if p in at}
    flows = {i: at[c] for i in part.results if (c := found.cotangents.get(marked.at[i], -1)) in at}
    return Backward(new, peaks, flows)


def _settled(derived: IR, marked: Marked, wanted: Iterable[int]) -> IR:
    """A derived graph with the zeros that were added left out, and the sums put in."""
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
    """The sum over results of a softmax, times what flows to them."""
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
    """The graph of hops with softmaxes as exp(score - peak), and zeros added to sums."""

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
        """The gradients of `wanted`, with all computed anew but the sums."""
        part = self.part
        anew = frozenset(n.id for n in self.ir) - {*part.sums}
        reads = [*part.reads, *self.zeros.values()]
        ends = [self.at[i] for i in results]
        loop = Loop(part.axis, False, [], [])
        return differentiate(LoopIR(part.name, loop, self.ir, reads, ends, anew), wanted)


def _ordered(ir: IR) -> IR:
    ir.nodes = merge_orders(ir.nodes, {})
    return keep(ir, reachable(ir, [*ir.outputs.values()]))
