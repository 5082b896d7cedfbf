"""The backward of an attention region, and the graphs that code is written from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, const, make
from graphnn.ops.registry import build
from graphnn.planner.algebra.simplify import simplify
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.autodiff.loops import Derived, differentiate
from graphnn.planner.core.loop_graph import LoopIR, merge_orders
from graphnn.planner.core.regions import Loop
from graphnn.planner.core.rewrite import keep, reachable, rewrite


def softmax_backward(
    part: AttentionRegion, wanted: Iterable[int], results: Iterable[int]
) -> Derived:
    """The gradients of the reads `wanted` from those of `results`; all values are recomputed.

    Let p = exp(s - peak), and g the gradient of p. The gradient of a score is p (g - Σ p g). The
    sum over the axis equals Σ of results times their gradients and is given as `delta` (Dao et al.
    2022, FlashAttention, appendix B.4).
    """
    everything = frozenset(n.id for n in part.ir)
    loop = LoopIR(
        part.name, Loop(part.axis, False, [], []), part.ir, part.reads, list(results), everything
    )
    derived = differentiate(loop, wanted)
    ir = simplify(derived.ir)
    if (i := derived.cotangents.get(part.total)) in ir.nodes:
        ir[i].attrs["wide"] = True  # the gradient of the logsumexp, which is at least float32
    return replace(derived, ir=ir)


def gradients(ir: IR, reads: Iterable[int]) -> tuple[IR, list[int]]:
    """The nodes of a derived graph that are gradients of `reads`; zero if there is no gradient."""
    ir = ir.copy()
    zero = const(ir, 0.0).id
    return ir, [ir.outputs.get(f"d{i}", zero) for i in reads]


def in_memory_order(part: AttentionRegion, axes: Iterable[str]) -> AttentionRegion:
    """The region with its axes in memory order: those of its graph first, its own last."""
    known = part.ir.axes
    order = [*(a for a in axes if a in known), *part.parts]
    return replace(part, ir=replace(part.ir.copy(), axes={a: known[a] for a in order}))


def definition(part: AttentionRegion) -> IR:
    """The reference graph: softmax over the whole axis, and `peak` if it is read."""
    if part.weight < 0:
        return part.ir

    def weight(s: Expr) -> Expr:
        if part.total >= 0:
            s.ir.outputs["peak"] = make("axis_logsumexp", make("widen", s), axis=part.axis).id
        return make("axis_softmax", s, axis=part.axis)

    return _with_weight(part, weight)


def tiled(part: AttentionRegion) -> IR:
    """Softmax over a part of the axis: the outputs are results and `peak` of that part alone."""

    def weight(s: Expr) -> Expr:
        peak = make("axis_logsumexp", s, axis=part.axis)
        s.ir.outputs["peak"] = peak.id
        return make("soft", s, peak, 0.0)

    return _with_weight(part, weight)


def _with_weight(part: AttentionRegion, weight: object) -> IR:
    found: dict[str, int] = {}

    def rule(new: IR, node: Node) -> Expr | None:
        if node.id != part.weight:
            return None
        made: Expr = weight(Expr(new, node.inputs[0]))  # type: ignore[operator]
        found.update(new.outputs)
        return made

    new = rewrite(part.ir, rule)
    new.outputs.update(found)
    return keep(new, reachable(new, [*new.outputs.values(), *part.reads]))


def positions(ir: IR) -> tuple[IR, dict[tuple[str, str], int]]:
    """The graph with positions and sizes of axes as `given` nodes, and those nodes by key."""
    given: dict[tuple[str, str], int] = {}

    def rule(new: IR, node: Node) -> Expr | int | None:
        if node.op not in ("index", "size"):
            return None
        key = (node.op, node.attrs["axis"])
        if key not in given:
            attrs = {"key": key, "was": node.op}
            given[key] = build(
                new, "given", (), attrs, shape=(), dtype=node.dtype, axes=node.axes, name=""
            )
        return given[key]

    new = rewrite(ir, rule)
    new.nodes = merge_orders(new.nodes, {})
    return new, given
