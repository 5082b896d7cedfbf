"""Recognises plain dot-product attention, for which torch has its own kernels."""

from __future__ import annotations

from dataclasses import dataclass

from graphnn.ir.graph import IR, Node
from graphnn.planner.attention.tiles import AttentionRegion


@dataclass(frozen=True)
class DotProduct:
    """softmax(scale q·k) v, with the reads that are q, k and v, and the mask.

    If `causal`, a query attends to keys up to its own position. `length` is the read that holds the
    number of keys per example, or -1 if all keys count.
    """

    query: int
    key: int
    value: int
    scale: float
    causal: bool
    length: int


def dot_product(part: AttentionRegion) -> DotProduct | None:
    """The region as plain attention, or None if it is something else."""
    ir = part.ir
    rows = [a for a in ir.layout(part.axes) if a in part.queries]
    if len(part.results) != 1 or not rows:
        return None
    value = _value(part)
    scale, causal, length, node = 1.0, False, -1, ir[part.score]
    while node.op in ("where", "mul"):
        if node.op == "mul":
            x, factor = _scaled(ir, node)
            if x is None:
                return None
            scale, node = scale * factor, x
            continue
        mask, kept, none = (ir[i] for i in node.inputs)
        if none.op != "const" or none.attrs["value"] != float("-inf"):
            return None
        limit = _limit(ir, mask, part.axis)
        if limit is not None:
            length = limit
        elif len(rows) == 1 and _ahead(ir, mask, part.axis, rows[0]):
            causal = True
        else:
            return None
        node = kept
    pair = _pair(part, node)
    if value is None or pair is None or (length >= 0 and ir[length].axes & part.queries):
        return None
    return DotProduct(*pair, value, scale, causal, length)


def _value(part: AttentionRegion) -> int | None:
    """The read that is weighted, if the result is nothing but the weighted sum of it."""
    ir = part.ir
    node = ir[part.results[0]]
    if node.op != "einsum" or node.attrs["sub"] != ",z->z" or node.inputs[0] != part.weight:
        return None
    value = ir[node.inputs[1]]
    if value.op == "where" and _limit(ir, ir[value.inputs[0]], part.axis) is not None:
        value = ir[value.inputs[1]]
    fits = value.op == "given" and part.axis in value.axes and not value.axes & part.queries
    return value.id if fits else None


def _pair(part: AttentionRegion, node: Node) -> tuple[int, int] | None:
    """The query and the key if a node is the dot product of two reads."""
    if node.op != "einsum" or node.attrs["sub"] not in ("z,z->", "y,y->"):
        return None
    a, b = part.ir.operands(node)
    if part.axis in a.axes:
        a, b = b, a
    read = a.op == b.op == "given" and part.axis in b.axes and part.axis not in a.axes
    return (a.id, b.id) if read and part.queries <= a.axes and not b.axes & part.queries else None


def _scaled(ir: IR, node: Node) -> tuple[Node | None, float]:
    a, b = ir.operands(node)
    if a.op == "const":
        a, b = b, a
    return (a, float(b.attrs["value"])) if b.op == "const" else (None, 1.0)


def _limit(ir: IR, mask: Node, axis: str) -> int | None:
    """The read of lengths if a mask selects the keys within each example."""
    if mask.op != "lt":
        return None
    place, length = ir.operands(mask)
    own = place.op == "index" and place.attrs["axis"] == axis
    return length.id if own and length.op == "given" and length.attrs["was"] == "length" else None


def _ahead(ir: IR, mask: Node, key: str, query: str) -> bool:
    """Whether a mask selects keys up to the position of the query."""
    if mask.op not in ("le", "ge"):
        return False
    a, b = ir.operands(mask) if mask.op == "le" else ir.operands(mask)[::-1]
    places = a.op == b.op == "index" and a.attrs["axis"] == key and b.attrs["axis"] == query
    root = {ir.axes[x].copy_of or x for x in (key, query)}
    return places and len(root) == 1
