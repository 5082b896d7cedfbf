"""Weights that are read at one query only are computed for that query only.

`gn.last(weights, over="target")` of a softmax over `source` becomes the softmax of the scores of
that query. Reading one position along an axis commutes with operations that do not act along it.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS
from graphnn.planner.attention.tiles import REDUCED, RESHAPED
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite

SWAPPED = frozenset({"axis_softmax", "einsum", *REDUCED, *RESHAPED})


def pick_queries(ir: IR) -> tuple[IR, dict[int, str]]:
    """The graph in which single queries are picked before their weights are computed.

    Also returns the softmaxes of one query with the label of their reader.
    """
    home = loop_numbers(ir)
    picked = {n.id for n in ir if n.op == "axis_at" and n.id not in home and _of_weights(ir, n)}
    single: dict[int, str] = {}

    def rule(new: IR, node: Node) -> Expr | None:
        if node.id not in picked:
            return None
        made = _Picked(new, node, set(home))
        found = Expr(new, made(node.inputs[0]))
        label = f"'{node.label}' at {node.site}" if node.site else node.label
        single.update({i: label for i in made.made.values() if new[i].op == "axis_softmax"})
        if len(node.inputs) > 1:
            found = make("where", make("gt", Expr(new, node.inputs[1]), 0), found, 0.0)
        return found

    return (rewrite(ir, rule) if picked else ir), single


def _of_weights(ir: IR, node: Node) -> bool:
    """Whether a node reads one query of a value that is computed from weights."""
    axis, seen, stack = node.attrs["axis"], set[int](), [node.inputs[0]]
    while stack:
        x = ir[stack.pop()]
        if x.id in seen or axis not in x.axes or not _commutes(x, axis):
            continue
        seen.add(x.id)
        if x.op == "axis_softmax" and x.attrs["axis"] in ir[node.inputs[0]].axes:
            return True
        stack += x.inputs
    return False


def _commutes(node: Node, axis: str) -> bool:
    plain = OPS[node.op].family == "pointwise" or node.op in SWAPPED
    return plain and axis not in (node.attrs.get("axis"), *node.attrs.get("contract", ()))


class _Picked:
    """The values of nodes at one position along an axis."""

    def __init__(self, new: IR, at: Node, looped: set[int]):
        self.new, self.at, self.looped = new, at, looped
        self.axis, self.made = at.attrs["axis"], dict[int, int]()

    def __call__(self, i: int) -> int:
        node = self.new[i]
        if self.axis not in node.axes:
            return i
        if i not in self.made:
            self.made[i] = self._make(node)
        return self.made[i]

    def _make(self, node: Node) -> int:
        before = self.new.here
        self.new.here = (node.name, node.site)
        if _commutes(node, self.axis) and node.id not in self.looped:
            inputs = [Expr(self.new, self(j)) for j in node.inputs]
            made = make(node.op, *inputs, **node.attrs)
        else:
            end = [Expr(self.new, j) for j in self.at.inputs[1:]]
            made = make("axis_at", Expr(self.new, node.id), *end, **self.at.attrs)
        self.new.here = before
        return made.id
