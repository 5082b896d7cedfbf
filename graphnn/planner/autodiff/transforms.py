"""orders: what a transform makes of a loop, as a graph of its own.

Its backward, its tangents (the backward's backward), and the loop along one more axis. Each is a
LoopIR as the loop is, so that every transform of a transform is one of these again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from graphnn.errors import TransformError
from graphnn.ir.graph import IR, Axis, Node
from graphnn.ops.builder import Expr, const, make
from graphnn.ops.registry import build
from graphnn.planner.autodiff.loops import Derived, differentiate
from graphnn.planner.core.loop_graph import LoopIR, given
from graphnn.planner.core.rewrite import keep, reachable


def floating(loop: LoopIR) -> list[bool]:
    """Which reads can have a gradient: numbers, but no noise."""
    nodes = [loop.ir[i] for i in loop.reads]
    return [n.dtype.is_floating_point and n.attrs.get("was") != "random" for n in nodes]


def pulled(
    loop: LoopIR, derived: Derived, kept: Sequence[int], wanted: Sequence[int], made: Sequence[int]
) -> LoopIR:
    """The backward as a loop: it reads what the loop does and `kept`, which the loop gave out, then
    a gradient for each of the results `made`; it results in one for each of the reads `wanted`."""
    ir, likes = derived.ir.copy(), loop.ir
    reads = [*loop.reads, *kept]
    for i in reads:
        if i not in ir.nodes:
            ir.insert(given(likes[i]))
    flows = [derived.cotangents.get(i) or ir.insert(_flow(ir, likes[i])) for i in made]
    results = [_result(ir, ir.outputs.get(f"d{i}"), likes[i]) for i in wanted]
    return _cut(loop, ir, [*reads, *flows], results)


def pushed(backward: LoopIR, flows: Sequence[int]) -> Derived:
    """The graph of tangents: of what flows into a backward, given those of its results.

    A backward is linear in what flows into it; its backward, from there, is the forward again.
    """
    derived = differentiate(backward, flows, again=frozenset(backward.ir.nodes))
    if reachable(derived.ir, derived.ir.outputs.values()) & set(flows):
        raise AssertionError(f"'{backward.name}' is not linear in what flows into it")
    return derived


def unclipped(loop: LoopIR) -> LoopIR:
    """The loop with every `clip_gradient` as what it is forward: the identity."""
    ir = loop.ir.copy()
    for node in loop.ir:
        if node.op == "clip_gradient":
            ir.nodes[node.id] = replace(node, op="expand", attrs={"shape": node.shape})
    return replace(loop, ir=ir)


def mapped(loop: LoopIR, carrying: Iterable[int], results: list[int]) -> LoopIR:
    """The loop along one more axis, the last in memory, which the reads `carrying` have."""
    ir = loop.ir.copy()
    axis = next(a for k in range(len(ir.axes) + 1) if (a := f"vmap{k}") not in ir.axes)
    ir.axes[axis] = Axis(axis)
    carried = _carried(ir, set(carrying))
    _check_mapped(loop, carried)
    for i in carried:
        ir.nodes[i] = replace(ir[i], axes=ir[i].axes | {axis})
    ir.outputs = {f"v{i}": i for i in results}
    return replace(loop, ir=ir, results=results)


def _flow(ir: IR, like: Node) -> Node:
    """A gradient of something, that nothing reads."""
    return replace(given(like), id=ir.fresh(), attrs={"key": ("d", like.id)}, name="")


def _result(ir: IR, i: int | None, like: Node) -> int:
    """A gradient as a node of its own, in the full form of what it is of."""
    x = const(ir, 0.0) if i is None else Expr(ir, i)
    if x.dtype != like.dtype:
        x = make("cast", x, dtype=like.dtype)
    form = {"shape": like.shape, "dtype": like.dtype, "axes": like.axes, "site": like.site}
    attrs = {"shape": like.shape}
    return build(ir, "expand", [x.id], attrs, name=f"d_{like.label}", **form)  # type: ignore[arg-type]


def _cut(loop: LoopIR, ir: IR, reads: list[int], results: list[int]) -> LoopIR:
    """These results as a loop, without what they do not need."""
    ir = keep(ir, reachable(ir, results) | set(reads))
    ir.outputs = {f"v{i}": i for i in results}
    return replace(loop, ir=ir, reads=reads, results=results, absorbed=frozenset())


def _carried(ir: IR, carried: set[int]) -> set[int]:
    """All that varies where `carried` does."""
    while True:
        more = set(carried)
        for node in ir:
            reads = [*node.inputs, *([ir.closings[node.id]] if node.id in ir.closings else [])]
            if node.op != "given" and any(i in more for i in reads):
                more.add(node.id)
        if more == carried:
            return carried
        carried = more


def _check_mapped(loop: LoopIR, carried: set[int]) -> None:
    for i in carried:
        node = loop.ir[i]
        if "places" in node.attrs:
            raise TransformError(
                f"the loop '{loop.name}' draws noise from a seed, which torch.vmap cannot map",
                node=node.label,
                site=node.site,
                got="torch.vmap(randomness='different')",
                wanted="noise that is drawn before the loop",
                fix="compile without recompute=True, or use randomness='same'",
            )
        if i == loop.ends:
            raise TransformError(
                f"torch.vmap cannot map the lengths of the loop '{loop.name}'",
                node=node.label,
                site=node.site,
                got=f"lengths of '{loop.loop.axis}' that differ from call to call of the vmap",
                wanted="the same lengths for all of them",
                fix="make what is mapped part of the batch, or call the model once for each",
            )
