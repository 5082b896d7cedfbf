"""The tools of passes: copying nodes to new operands, reordering, and dropping unused nodes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr
from graphnn.ops.registry import OPS

Rule = Callable[[IR, Node], Expr | int | None]


def remake(ir: IR, node: Node, inputs: tuple[int, ...]) -> Node:
    """The same operation with other operands; its axes are inferred from theirs."""
    op = OPS[node.op]
    axes = node.axes
    if op.family not in ("source", "delay"):
        axes = op.axes([ir[i].axes for i in inputs], node.attrs)
    # field by field: faster than `replace` for the thousands of nodes that passes copy
    unchanged = (node.dtype, node.name, node.site)
    return Node(node.id, node.op, inputs, node.attrs, node.shape, axes, *unchanged)


def rewrite(ir: IR, rule: Rule, moved: dict[int, int] | None = None) -> IR:
    """The graph after applying `rule` to each node in order.

    `rule` gets the new graph and the node with its new operands. It returns the node's replacement
    (an expression, or the id of a node in the new graph), or None to keep it. `moved` is filled
    with the new id of each old one.
    """
    new = ir.empty()
    moved = {} if moved is None else moved
    for node in ir:
        made = remake(new, node, tuple(moved[i] for i in node.inputs))
        new.here = (node.name, node.site)
        other = rule(new, made)
        if other is None:
            moved[node.id] = new.insert(made)
        else:
            moved[node.id] = other.id if isinstance(other, Expr) else other
    new.here = ("", None)
    finish(ir, new, moved)
    return new


def finish(old: IR, new: IR, moved: dict[int, int]) -> None:
    """Copy closings, outputs and stop conditions to the new graph."""
    for delay, source in old.closings.items():
        if moved.get(delay) in new.nodes and new[moved[delay]].op == "delay":
            new.closings[moved[delay]] = moved[source]
    new.outputs = {name: moved[i] for name, i in old.outputs.items()}
    new.until = {axis: moved[i] for axis, i in old.until.items() if i in moved}


def reachable(ir: IR, roots: Iterable[int], within: Container[int] | None = None) -> set[int]:
    """All nodes that the roots depend on, also through delays; with `within`, only through these
    nodes."""
    found: set[int] = set()
    stack = list(roots)
    while stack:
        i = stack.pop()
        if i in found or (within is not None and i not in within):
            continue
        found.add(i)
        stack.extend(ir[i].inputs)
        if i in ir.closings:
            stack.append(ir.closings[i])
    return found


def keep(ir: IR, ids: set[int]) -> IR:
    """The graph restricted to these nodes."""
    new = ir.copy()
    new.nodes = {i: n for i, n in ir.nodes.items() if i in ids}
    new.closings = {d: s for d, s in ir.closings.items() if d in ids}
    new.until = {a: i for a, i in ir.until.items() if i in ids}
    return new


def tidy(ir: IR) -> IR:
    """The graph with values that have no axes (functions of weights) first, otherwise in order.

    A pass may then concatenate any weights at any node.
    """
    new = ir.copy()
    fixed: dict[int, Node] = {}
    for i, n in ir.nodes.items():
        if not n.axes and all(j in fixed for j in n.inputs):
            fixed[i] = n
    rest = {i: n for i, n in ir.nodes.items() if i not in fixed}
    sources = {i: n for i, n in rest.items() if OPS[n.op].family == "source"}
    new.nodes = {**fixed, **sources, **{i: n for i, n in rest.items() if i not in sources}}
    if not _ordered(new):
        return ir
    return new


def _ordered(ir: IR) -> bool:
    seen: set[int] = set()
    for node in ir:
        if any(i not in seen for i in node.inputs):
            return False
        seen.add(node.id)
    return True


def key_of(node: Node) -> Any:
    """A key that only nodes with equal values share; None if that cannot be known."""
    if node.op in ("random", "delay", "opaque", "vjp", "input", "given", "aten"):
        return None
    value = node.attrs.get("value")
    attrs = tuple(sorted((k, _hashable(v)) for k, v in node.attrs.items()))
    return (node.op, node.inputs, attrs, type(value), node.dtype)


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(sorted(value.items()))
    if isinstance(value, list):
        return tuple(value)
    return value
