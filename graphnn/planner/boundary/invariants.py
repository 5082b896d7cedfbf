"""Loop invariants of streaming: values that are equal at every position, split off from the steps.

A decoder that runs one step at a time reads its encoder's values instead of encoding again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.rewrite import keep, reachable

PREFIX = "held "


@dataclass(frozen=True)
class InvariantSplit:
    """A graph in two: the outputs of `before` are additional inputs of `steps`, by name.

    `before` is None if nothing is invariant.
    """

    before: IR | None
    steps: IR


def split_invariants(ir: IR, axis: str) -> InvariantSplit:
    """Split a graph at the values that are equal at every position of `axis`.

    `steps` reads inputs and random values that do not vary over the axis only through `before`.
    """
    still = _invariant(ir, axis)
    border = _border(ir, still)
    if not border:
        return InvariantSplit(None, ir)
    steps = _steps(ir, border)
    lacking = _lacking(ir, steps, still)
    if lacking:
        border += lacking
        steps = _steps(ir, border)
    names = _names(ir, border)
    before = _part(ir, border)
    before.outputs = {name: i for i, name in names.items()}
    return InvariantSplit(before, steps)


def _steps(ir: IR, border: list[int]) -> IR:
    """The graph with its invariant values as inputs."""
    steps = ir.copy()
    for i, name in _names(ir, border).items():
        steps.nodes[i] = _given(ir, ir[i], name)
        steps.closings.pop(i, None)
    return _part(steps, [*steps.outputs.values(), *border])


def _part(ir: IR, roots: Iterable[int]) -> IR:
    """The nodes that the roots depend on, and the axes of these alone."""
    part = keep(ir, reachable(ir, roots))
    used = {BATCH}.union(*(n.axes | {n.attrs.get("axis", BATCH)} for n in part))
    used |= {ir.axes[a].copy_of or a for a in used}
    part.axes = {a: x for a, x in ir.axes.items() if a in used}
    return part


def _invariant(ir: IR, axis: str) -> set[int]:
    """The nodes that do not depend on anything that varies over the axis."""
    copies = {a for a, x in ir.axes.items() if axis in (a, x.copy_of)}
    moving = {n.id for n in ir if n.axes & copies or n.attrs.get("axis") in copies}
    count = -1
    while count != len(moving):
        count = len(moving)
        for node in ir:
            if any(j in moving for j in _reads(ir, node)):
                moving.add(node.id)
    return set(ir.nodes) - moving


def _reads(ir: IR, node: Node) -> list[int]:
    closing = [ir.closings[node.id]] if node.id in ir.closings else []
    return [*node.inputs, *closing]


def _border(ir: IR, still: set[int]) -> list[int]:
    """The invariant values of each example that the steps read, or that are outputs."""
    wanted = set(ir.outputs.values())
    wanted |= {i for n in ir if n.id not in still for i in _reads(ir, n)}
    return [n.id for n in ir if n.id in wanted & still and BATCH in n.axes and _made(n)]


def _made(node: Node) -> bool:
    """Whether a value is an input, random or computed, not implied by the sizes of a call."""
    return OPS[node.op].family != "source" or node.op in ("input", "random")


def _lacking(ir: IR, steps: IR, still: set[int]) -> list[int]:
    """For each axis whose length the steps need and none of their inputs has, an input that has."""
    brought = {a for n in steps if n.op == "input" for a in n.attrs["over"]}
    asked = [a for a, x in steps.axes.items() if x.length is None and x.copy_of is None]
    bringing = {a: n.id for n in ir if n.op == "input" and n.id in still for a in n.attrs["over"]}
    return list(dict.fromkeys(bringing[a] for a in asked if a not in brought and a in bringing))


def _names(ir: IR, border: list[int]) -> dict[int, str]:
    """Names made from the modules that computed the values: every trace has the same names."""
    taken = {n.attrs["key"] for n in ir if n.op in ("input", "delay")}
    names: dict[int, str] = {}
    for i in border:
        first = name = f"{PREFIX}{maker(ir, ir[i])}"
        count = 2
        while name in taken:
            name, count = f"{first} ({count})", count + 1
        taken.add(name)
        names[i] = name
    return names


def _given(ir: IR, node: Node, name: str) -> Node:
    over = tuple(a for a in ir.layout(node.axes) if a != BATCH)
    return replace(node, op="input", inputs=(), attrs={"key": name, "over": over}, name=name)


def maker(ir: IR, node: Node) -> str:
    """The name of the nearest named ancestor of a value: the module of its weights, or a value."""
    line = [node.id]
    for i in line:
        above = ir[i]
        while not above.axes and OPS[above.op].family == "view":
            above = ir[above.inputs[0]]
        if above.op == "parameter":
            return above.name.rpartition(".")[0] or above.name
        if above.name:
            return above.name
        line += above.inputs[::-1]  # the weight before what it is applied to
    return node.op
