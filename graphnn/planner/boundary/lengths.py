"""Lengths become explicit masks in the graph.

On axes without lengths every `length` becomes the size of the axis. On ragged axes, and on axes
that stop by themselves, padded inputs read as zero, states keep their value beyond an example's
end, and outputs are zero there.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS
from graphnn.ops.sources import index_of, length_of, size_of
from graphnn.planner.core.rewrite import rewrite


def mask(ir: IR, ragged: frozenset[str]) -> IR:
    """The graph for calls with lengths for exactly the axes in `ragged`."""

    def rule(new: IR, node: Node) -> Expr | None:
        if node.op == "length" and _root(new, node.attrs["axis"]) not in ragged:
            return size_of(new, node.attrs["axis"])
        even = OPS[node.op].family == "axis" and len(node.inputs) == 2
        if even and new[node.inputs[1]].op == "size":
            return make(node.op, Expr(new, node.inputs[0]), **node.attrs)
        if node.op == "input":
            return _zero_padded(new, node, ragged)
        return None

    new = rewrite(ir, rule)
    for delay in list(new.closings):
        _mask_state(new, delay, ragged)
    for name, i in new.outputs.items():
        for axis in new.layout(new[i].axes):
            if _root(new, axis) in ragged:
                padded = make("where", valid(new, axis), Expr(new, new.outputs[name]), 0)
                new.outputs[name] = _as(padded, new[i]).id
    return _start_at_ends(new, ragged)


def _root(ir: IR, axis: str) -> str:
    return ir.axes[axis].copy_of or axis


def _as(x: Expr, like: Node) -> Expr:
    return x if x.dtype == like.dtype else make("cast", x, dtype=like.dtype)


def valid(ir: IR, axis: str) -> Expr:
    """True at the positions before the end of an example."""
    if axis in ir.until:
        return Expr(ir, ir.until[axis])
    return make("lt", index_of(ir, axis), length_of(ir, _root(ir, axis)))


def _zero_padded(new: IR, node: Node, ragged: frozenset[str]) -> Expr | None:
    padded = [a for a in node.attrs["over"] if a in ragged]
    if not padded:
        return None
    x = Expr(new, new.insert(node))
    for axis in padded:
        x = _as(make("where", valid(new, axis), x, 0), node)
    return x


def _mask_state(new: IR, delay: int, ragged: frozenset[str]) -> None:
    """Let a state keep its value beyond the end: its last value is then the final state."""
    axis, after = new[delay].attrs["axis"], new.closings[delay]
    stopped = axis in new.until
    if (not stopped and _root(new, axis) not in ragged) or new.until.get(axis) == delay:
        return
    if not stopped and not _in_loop(new, delay):
        return
    new.here = (new[delay].name, new[delay].site)
    masked = make("where", valid(new, axis), Expr(new, after), Expr(new, delay))
    new.here = ("", None)
    new.closings[delay] = masked.id


def _in_loop(ir: IR, delay: int) -> bool:
    """Whether a delay depends on itself."""
    seen, stack = set(), [ir.closings[delay]]
    while stack:
        i = stack.pop()
        if i == delay:
            return True
        if i not in seen:
            seen.add(i)
            stack.extend(ir[i].inputs)
            if i in ir.closings:
                stack.append(ir.closings[i])
    return False


def _start_at_ends(ir: IR, ragged: frozenset[str]) -> IR:
    """Delays that look ahead read their initial values at each example's own end."""
    late = {
        n.id
        for n in ir
        if n.op == "delay" and n.attrs["steps"] < 0 and _root(ir, n.attrs["axis"]) in ragged
    }
    if not late:
        return ir

    def rule(new: IR, node: Node) -> Expr | None:
        if node.id not in late:
            return None
        read, steps = Expr(new, new.insert(node)), -node.attrs["steps"]
        axis = node.attrs["axis"]
        left = length_of(new, _root(new, axis)) - index_of(new, axis)
        inits = [Expr(new, i) for i in node.inputs] * (steps if len(node.inputs) == 1 else 1)
        for slot, init in enumerate(inits):
            read = make("where", make("eq", left, slot + 1), init, read)
        return read

    moved: dict[int, int] = {}
    new = rewrite(ir, rule, moved)
    for delay in late:
        new.closings[delay] = moved[ir.closings[delay]]
    return new
