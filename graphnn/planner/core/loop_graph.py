"""One loop as a graph of its own, from which its forward and backward code is generated.

Values from outside become `given` nodes. Values that are read outside become outputs, named after
the nodes that compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphnn.errors import GraphnnError
from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, memoized


@dataclass
class LoopIR:
    """A loop cut out of its graph.

    `ir` has a `given` node for each value in `reads`, with the id that it has in the whole graph.
    `results` are the nodes whose values over the whole axis are read outside. `absorbed` are nodes
    from before the loop that only it reads: they are computed here, and again in the backward.
    `ends` is the read that holds the examples' lengths along the loop's axis, if it is ragged.
    """

    name: str
    loop: Loop
    ir: IR
    reads: list[int]
    results: list[int]
    absorbed: frozenset[int] = frozenset()
    ends: int | None = None


def given(node: Node) -> Node:
    """A node as a value from outside. Noise from a seed keeps what describes it."""
    attrs = {"key": node.id, "was": node.op}
    if "places" in node.attrs:
        attrs |= {k: node.attrs[k] for k in ("kind", "p", "places")}
    return replace(node, op="given", inputs=(), attrs=attrs)


def extract(ir: IR, loop: Loop, outside: set[int], absorbed: Sequence[int] = ()) -> LoopIR:
    """Cut out a loop with the nodes `absorbed` before it; `outside` are the nodes read outside."""
    nodes = [*absorbed, *loop.nodes]
    inside = set(nodes)
    cut = ir.empty()
    reads: list[int] = []

    def read(j: int) -> None:
        if j in inside or j in cut.nodes:
            return
        source = ir[j]
        if source.op == "slice" and source.axes:
            # read the whole value: its gradient is then assembled once, in this loop
            read(source.inputs[0])
            cut.insert(source)
        elif source.op in ("const", "size"):
            cut.insert(source)
        else:
            cut.insert(given(source))
            reads.append(j)

    for i in nodes:
        for j in ir[i].inputs:
            read(j)
    for i in nodes:
        cut.insert(ir[i])
    cut.closings = {i: ir.closings[i] for i in nodes if i in ir.closings}
    cut.until = {a: i for a, i in ir.until.items() if i in inside}
    results = [i for i in loop.nodes if i in outside]
    cut.outputs = {f"v{i}": i for i in results}
    ends = ends_of(ir, loop)
    if ends is not None:
        read(ends)
    return LoopIR(_name(ir, loop), loop, cut, reads, results, frozenset(absorbed), ends)


def ends_of(ir: IR, loop: Loop) -> int | None:
    """The node of the examples' lengths along a loop's axis, or None if a call gives none."""
    root = ir.axes[loop.axis].copy_of or loop.axis
    rows = frozenset().union(*(ir[i].axes for i in loop.nodes))
    lengths = memoized(ir, "lengths", lambda: [n for n in ir if n.op == "length"])
    found = (n.id for n in lengths if n.attrs["axis"] == root and n.axes <= rows)
    return next(found, None) if loop.stop is None else None


def signature_of(cut: LoopIR) -> Any:
    """A key that two loops share if they have the same code, whatever their nodes are called."""
    place = {i: n for n, i in enumerate(cut.ir.nodes)}
    nodes = [
        (n.op, tuple(place[i] for i in n.inputs), _attrs(n), n.shape, n.axes, n.dtype)
        for n in cut.ir
    ]
    closings = [(place[d], place[s]) for d, s in cut.ir.closings.items()]
    stops = [(axis, place[i]) for axis, i in cut.ir.until.items()]
    ends = [] if cut.ends is None else [cut.ends]
    groups = (cut.reads, cut.results, sorted(cut.absorbed), cut.loop.states, ends)
    ids = [tuple(place[i] for i in group) for group in groups]
    return tuple(nodes), tuple(closings), tuple(stops), tuple(ids), tuple(cut.ir.axes)


def _attrs(node: Node) -> Any:
    """Attributes without names; opaque functions are equal only to themselves."""
    left = {k: v for k, v in node.attrs.items() if k != "key"}
    return tuple((k, type(v), v if _plain(v) else id(v)) for k, v in sorted(left.items()))


def _plain(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, (int, float, bool, str, torch.dtype))


def _name(ir: IR, loop: Loop) -> str:
    named = [ir[i].name for i in loop.states if ir[i].name]
    return "_".join(dict.fromkeys(named)) or f"loop_{loop.states[0]}"


def views_outside(ir: IR, loops: list[Loop]) -> IR:
    """Recompute, outside, the views and states of loops that are read there, from their base.

    A loop then returns only values that its steps compute.
    """
    home = {i: n for n, loop in enumerate(loops) for i in loop.nodes}
    if not home:
        return ir
    new = ir.copy()
    order: dict[int, Node] = {}
    twin: dict[int, int] = {}

    def outside(i: int) -> int:
        """The node that readers outside read instead of `i`."""
        node = ir[i]
        copied = OPS[node.op].family in ("view", "rename")
        state = node.op == "delay" and node.attrs["axis"] == loops[home[i]].axis
        if not copied and not state:
            return i
        if i not in twin:
            fresh = new.fresh()
            twin[i] = fresh
            inputs = tuple(outside(j) if home.get(j) == home[i] else j for j in node.inputs)
            order[fresh] = replace(node, id=fresh, inputs=inputs)
            if state:
                new.closings[fresh] = ir.closings[i]
        return twin[i]

    nodes: dict[int, Node] = {}
    for node in ir:
        swap = {j: outside(j) for j in node.inputs if j in home and home.get(node.id) != home[j]}
        nodes[node.id] = (
            replace(node, inputs=tuple(swap.get(j, j) for j in node.inputs)) if swap else node
        )
    new.outputs = {k: outside(i) if i in home else i for k, i in ir.outputs.items()}
    for delay, source in ir.closings.items():
        if source in home and home.get(delay) != home[source]:
            new.closings[delay] = outside(source)
    for fresh, source in list(new.closings.items()):
        if fresh in order and source in home:
            new.closings[fresh] = outside(source)
    new.nodes = merge_orders(nodes, order)
    return new


def merge_orders(nodes: dict[int, Node], extra: dict[int, Node]) -> dict[int, Node]:
    """All nodes, each after its operands."""
    pool = {**nodes, **extra}
    done: dict[int, Node] = {}
    waiting: set[int] = set()
    for root in pool:
        stack = [root]
        while stack:
            i = stack[-1]
            missing = [j for j in pool[i].inputs if j not in done]
            if i in done or not missing:
                stack.pop()
                done.setdefault(i, pool[i])
            elif i in waiting:  # it was postponed before: an operand depends on it
                raise GraphnnError(f"a pass has made a node of itself: {pool[i].label}")
            else:
                waiting.add(i)
                stack.extend(missing)
    return done
