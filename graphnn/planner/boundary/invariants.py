"""held: what does not vary over an axis, cut off, so that steps along the axis need not redo it.

A decoder that is run one step at a time reads what its encoder made, and does not encode again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.rewrite import keep, reachable

HELD = "held "


@dataclass(frozen=True)
class Cut:
    """`before` computes as outputs, by name, the inputs that `steps` has besides its own.

    `before` is None where nothing is held.
    """

    before: IR | None
    steps: IR


def held(ir: IR, axis: str) -> Cut:
    """Cut a graph where values stop being the same at every position of `axis`.

    All that `steps` reads of inputs that do not vary over the axis, and of random numbers that do
    not, comes by `before`.
    """
    still = _still(ir, axis)
    border = _border(ir, still)
    if not border:
        return Cut(None, ir)
    steps = _steps(ir, border)
    lacking = _lacking(ir, steps, still)
    if lacking:
        border += lacking
        steps = _steps(ir, border)
    names = _names(ir, border)
    before = _part(ir, border)
    before.outputs = {name: i for i, name in names.items()}
    return Cut(before, steps)


def _steps(ir: IR, border: list[int]) -> IR:
    """The graph with what is held as inputs."""
    steps = ir.copy()
    for i, name in _names(ir, border).items():
        steps.nodes[i] = _given(ir, ir[i], name)
        steps.closings.pop(i, None)
    return _part(steps, [*steps.outputs.values(), *border])


def _part(ir: IR, roots: Iterable[int]) -> IR:
    """What the roots need, and the axes of that alone."""
    part = keep(ir, reachable(ir, roots))
    used = {BATCH}.union(*(n.axes | {n.attrs.get("axis", BATCH)} for n in part))
    used |= {ir.axes[a].copy_of or a for a in used}
    part.axes = {a: x for a, x in ir.axes.items() if a in used}
    return part


def _still(ir: IR, axis: str) -> set[int]:
    """The nodes that nothing along the axis has a part in."""
    own = {a for a, x in ir.axes.items() if axis in (a, x.copy_of)}
    moving = {n.id for n in ir if n.axes & own or n.attrs.get("axis") in own}
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
    """What each example has before the steps, and is read in them or given out."""
    wanted = set(ir.outputs.values())
    wanted |= {i for n in ir if n.id not in still for i in _reads(ir, n)}
    return [n.id for n in ir if n.id in wanted & still and BATCH in n.axes and _made(n)]


def _made(node: Node) -> bool:
    """Whether a value is given, drawn or computed, not told by the form of a call."""
    return OPS[node.op].family != "source" or node.op in ("input", "random")


def _lacking(ir: IR, steps: IR, still: set[int]) -> list[int]:
    """An input of each axis whose length the steps ask for and no input of theirs brings."""
    brought = {a for n in steps if n.op == "input" for a in n.attrs["over"]}
    asked = [a for a, x in steps.axes.items() if x.length is None and x.copy_of is None]
    bringing = {a: n.id for n in ir if n.op == "input" and n.id in still for a in n.attrs["over"]}
    return list(dict.fromkeys(bringing[a] for a in asked if a not in brought and a in bringing))


def _names(ir: IR, border: list[int]) -> dict[int, str]:
    """By the modules that made them, so that another trace has the same."""
    taken = {n.attrs["key"] for n in ir if n.op in ("input", "delay")}
    names: dict[int, str] = {}
    for i in border:
        first = name = f"{HELD}{maker(ir, ir[i])}"
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
    """The name of what is nearest above a value: of a module by its weights, or a value's."""
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
