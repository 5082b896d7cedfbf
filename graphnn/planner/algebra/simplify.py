"""Simplification: constants, common subexpressions, views of views, unused nodes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, const, make, reshape
from graphnn.planner.core.rewrite import keep, key_of, reachable, rewrite


def simplify(ir: IR) -> IR:
    """Return an equal, smaller graph.

    Random nodes stay, as dropping one would change the numbers that the others draw.
    """
    seen: dict[Any, int] = {}

    def rule(new: IR, node: Node) -> Expr | int | None:
        for shorten in RULES.get(node.op, ()):
            found = shorten(new, node)
            if found is not None:
                return found
        key = key_of(node)
        if key is None:
            return None
        if key in seen:
            return seen[key]
        seen[key] = node.id
        return None

    new = rewrite(ir, rule)
    roots = [*new.outputs.values(), *new.until.values()]
    roots += [n.id for n in new if n.op in ("random", "input", "given")]
    return keep(new, reachable(new, roots))


def _value(ir: IR, i: int) -> Any:
    node = ir[i]
    return node.attrs["value"] if node.op == "const" else None


def _same(ir: IR, node: Node, other: int) -> int | None:
    """`other` if it has the shape, axes and dtype of `node`, else None."""
    o = ir[other]
    fits = o.shape == node.shape and o.axes == node.axes and o.dtype == node.dtype
    return other if fits else None


def _neutral(value: float, left: bool) -> Callable[[IR, Node], int | None]:
    """The rule x ∘ value = x, and if `left` also value ∘ x = x."""

    def rule(ir: IR, node: Node) -> int | None:
        a, b = node.inputs
        if _value(ir, b) == value and not isinstance(_value(ir, b), bool):
            return _same(ir, node, a)
        if left and _value(ir, a) == value and not isinstance(_value(ir, a), bool):
            return _same(ir, node, b)
        return None

    return rule


def _fold(function: Callable[[Any, Any], Any]) -> Callable[[IR, Node], Expr | None]:
    def rule(ir: IR, node: Node) -> Expr | None:
        a, b = (_value(ir, i) for i in node.inputs)
        return None if a is None or b is None else const(ir, function(a, b))

    return rule


def _twice_negated(ir: IR, node: Node) -> int | None:
    inner = ir[node.inputs[0]]
    return inner.inputs[0] if inner.op == "neg" else None


def _add_negated(ir: IR, node: Node) -> Expr | None:
    a, b = node.inputs
    if ir[b].op == "neg":
        return Expr(ir, a) - Expr(ir, ir[b].inputs[0])
    if ir[a].op == "neg" and ir[b].op != "const":
        return Expr(ir, b) - Expr(ir, ir[a].inputs[0])
    return None


def _less_number(ir: IR, node: Node) -> Expr | None:
    """Rewrite x - 1 as x + -1, so that the terms of sums can be regrouped."""
    a, b = node.inputs
    value = _value(ir, b)
    if value is None or isinstance(value, bool) or not node.dtype.is_floating_point:
        return None
    return Expr(ir, a) + -value


def _same_dtype(ir: IR, node: Node) -> int | None:
    return node.inputs[0] if ir[node.inputs[0]].dtype == node.dtype else None


def _reshape(ir: IR, node: Node) -> Expr | int | None:
    inner = ir[node.inputs[0]]
    if inner.shape == node.shape:
        return inner.id
    return reshape(Expr(ir, inner.inputs[0]), node.shape) if inner.op == "reshape" else None


def _expand(ir: IR, node: Node) -> int | None:
    return node.inputs[0] if ir[node.inputs[0]].shape == node.shape else None


def _slice(ir: IR, node: Node) -> Expr | int | None:
    inner, a = ir[node.inputs[0]], node.attrs
    if inner.shape == node.shape:
        return inner.id
    if inner.op == "slice" and inner.attrs["dim"] == a["dim"] and inner.attrs["step"] == 1:
        start = inner.attrs["start"]
        return make(
            "slice",
            Expr(ir, inner.inputs[0]),
            dim=a["dim"],
            start=start + a["start"],
            stop=start + a["stop"],
            step=a["step"],
        )
    if inner.op == "cat" and inner.attrs["dim"] == a["dim"] and a["step"] == 1:
        return _slice_of_cat(ir, inner, a)
    return None


def _slice_of_cat(ir: IR, cat: Node, a: dict[str, Any]) -> Expr | int | None:
    """Make a slice that lies within one part of a concatenation read that part."""
    start = 0
    for i in cat.inputs:
        size = ir[i].shape[a["dim"]]
        if start <= a["start"] and a["stop"] <= start + size and ir[i].axes == cat.axes:
            if a["stop"] - a["start"] == size:
                return i
            low, high = a["start"] - start, a["stop"] - start
            return make("slice", Expr(ir, i), dim=a["dim"], start=low, stop=high, step=1)
        start += size
    return None


def _cat(ir: IR, node: Node) -> Expr | int | None:
    """Make one slice of neighbouring slices of a value that are concatenated."""
    parts = [ir[i] for i in node.inputs]
    first, dim = parts[0], node.attrs["dim"]
    if any(
        p.op != "slice" or p.attrs["dim"] != dim or p.attrs["step"] != 1 or p.inputs != first.inputs
        for p in parts
    ):
        return None
    if any(a.attrs["stop"] != b.attrs["start"] for a, b in pairwise(parts)):
        return None
    base = Expr(ir, first.inputs[0])
    start, stop = first.attrs["start"], parts[-1].attrs["stop"]
    if (start, stop) == (0, base.shape[dim]):
        return base.id
    return make("slice", base, dim=dim, start=start, stop=stop, step=1)


RULES: dict[str, tuple[Callable[[IR, Node], Any], ...]] = {
    "add": (_fold(lambda a, b: a + b), _neutral(0, True), _add_negated),
    "sub": (_fold(lambda a, b: a - b), _neutral(0, False), _less_number),
    "mul": (_fold(lambda a, b: a * b), _neutral(1, True)),
    "div": (_neutral(1, False),),
    "neg": (_twice_negated,),
    "cast": (_same_dtype,),
    "reshape": (_reshape,),
    "expand": (_expand,),
    "slice": (_slice,),
    "cat": (_cat,),
}
