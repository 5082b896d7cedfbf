"""held: what does not vary over an axis, cut off, so that steps along the axis need not redo it.

A decoder that is run one step at a time reads what its encoder made, and does not encode again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from graphnn.ir import BATCH, IR, Node
from graphnn.ops.table import OPS
from graphnn.planner.rewrite import keep, reachable


@dataclass(frozen=True)
class Cut:
    """`before` computes as outputs, by name, the inputs that `steps` has besides its own.

    `before` is None where nothing is held.
    """

    before: IR | None
    steps: IR


def held(ir: IR, axis: str) -> Cut:
    """Cut a graph where values stop being the same at every position of `axis`."""
    still = _still(ir, axis)
    names = {i: f"held {ir[i].label} {i}" for i in _border(ir, still)}
    if not names:
        return Cut(None, ir)
    before = _part(ir, names)
    before.outputs = {name: i for i, name in names.items()}
    steps = ir.copy()
    for i, name in names.items():
        steps.nodes[i] = _given(ir, ir[i], name)
        steps.closings.pop(i, None)
    return Cut(before, _part(steps, steps.outputs.values()))


def _part(ir: IR, roots: Iterable[int]) -> IR:
    """What the roots need, and the axes of that alone."""
    part = keep(ir, reachable(ir, roots))
    used = {BATCH}.union(*(n.axes | {n.attrs.get("axis", BATCH)} for n in part))
    part.axes = {a: x for a, x in ir.axes.items() if a in used}
    return part


def _still(ir: IR, axis: str) -> set[int]:
    """The nodes that nothing along the axis has a part in."""
    moving = {n.id for n in ir if axis in n.axes}
    while True:
        reads = {
            n.id: [*n.inputs, *([ir.closings[n.id]] if n.id in ir.closings else [])] for n in ir
        }
        more = moving | {i for i, inputs in reads.items() if any(j in moving for j in inputs)}
        if more == moving:
            return set(ir.nodes) - moving
        moving = more


def _border(ir: IR, still: set[int]) -> list[int]:
    """What is computed for each example before the steps, and read in them or given out."""
    wanted = set(ir.outputs.values())
    for node in ir:
        if node.id not in still:
            wanted |= {*node.inputs, *([ir.closings[node.id]] if node.id in ir.closings else [])}
    return [
        n.id
        for n in ir
        if n.id in wanted & still and BATCH in n.axes and OPS[n.op].family != "source"
    ]


def _given(ir: IR, node: Node, name: str) -> Node:
    over = tuple(a for a in ir.layout(node.axes) if a != BATCH)
    return replace(node, op="input", inputs=(), attrs={"key": name, "over": over}, name=name)
