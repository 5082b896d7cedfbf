"""Torch's transforms of a loop, each as a LoopIR again.

These are the backward, the tangents (the backward of the backward), and the loop with one more
axis (vmap). As each result is a LoopIR, transforms can be applied to transforms.
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
    """For each read, whether it can have a gradient: it is floating and not noise."""
    nodes = [loop.ir[i] for i in loop.reads]
    return [n.dtype.is_floating_point and n.attrs.get("was") != "random" for n in nodes]


def backward_loop(
    loop: LoopIR, derived: Derived, kept: Sequence[int], wanted: Sequence[int], made: Sequence[int]
) -> LoopIR:
    """The backward as a loop.

    It reads the reads of the loop, its saved values `kept`, and a gradient for each of the results
    `made`. Its results are the gradients of the reads `wanted`.
    """
    ir, likes = derived.ir.copy(), loop.ir
    reads = [*loop.reads, *kept]
    for i in reads:
        if i not in ir.nodes:
            ir.insert(given(likes[i]))
    flows = [derived.cotangents.get(i) or ir.insert(_flow(ir, likes[i])) for i in made]
    results = [_result(ir, ir.outputs.get(f"d{i}"), likes[i]) for i in wanted]
    return _cut(loop, ir, [*reads, *flows], results)


def tangents(backward: LoopIR, flows: Sequence[int]) -> Derived:
    """The graph of tangents: the gradients of `flows`, the incoming gradients of a backward.

    A backward is linear in its incoming gradients, so its backward by these is the forward mode of
    the original loop.
    """
    derived = differentiate(backward, flows, again=frozenset(backward.ir.nodes))
    if reachable(derived.ir, derived.ir.outputs.values()) & set(flows):
        raise AssertionError(f"'{backward.name}' is not linear in its incoming gradients")
    return derived


def without_clipping(loop: LoopIR) -> LoopIR:
    """The loop with each `clip_gradient` replaced by its forward, the identity."""
    ir = loop.ir.copy()
    for node in loop.ir:
        if node.op == "clip_gradient":
            ir.nodes[node.id] = replace(node, op="expand", attrs={"shape": node.shape})
    return replace(loop, ir=ir)


def mapped(loop: LoopIR, carrying: Iterable[int], results: list[int]) -> LoopIR:
    """The loop with one more axis, the last in memory, which the reads `carrying` have."""
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
    """A `given` node for a gradient that nothing reads."""
    return replace(given(like), id=ir.fresh(), attrs={"key": ("d", like.id)}, name="")


def _result(ir: IR, i: int | None, like: Node) -> int:
    """A gradient as a node of its own, with the shape, dtype and axes of its value."""
    x = const(ir, 0.0) if i is None else Expr(ir, i)
    if x.dtype != like.dtype:
        x = make("cast", x, dtype=like.dtype)
    form = {"shape": like.shape, "dtype": like.dtype, "axes": like.axes, "site": like.site}
    attrs = {"shape": like.shape}
    return build(ir, "expand", [x.id], attrs, name=f"d_{like.label}", **form)  # type: ignore[arg-type]


def _cut(loop: LoopIR, ir: IR, reads: list[int], results: list[int]) -> LoopIR:
    """The part of a graph that these results need, as a loop."""
    ir = keep(ir, reachable(ir, results) | set(reads))
    ir.outputs = {f"v{i}": i for i in results}
    return replace(loop, ir=ir, reads=reads, results=results, absorbed=frozenset())


def _carried(ir: IR, carried: set[int]) -> set[int]:
    """All nodes that depend on those in `carried`."""
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
                fix="put the mapped dimension into the batch, or call the model in a loop",
            )
