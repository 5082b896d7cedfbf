"""rows: of weights that are read at one query alone, only those of this query are computed.

`gn.last(weights, over="target")` of a softmax over `source` becomes the softmax of that query's
scores: reading one position along an axis, and doing anything else than along it, may be swapped.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS
from graphnn.planner.attention.tiles import REDUCED, RESHAPED
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite

SWAPPED = frozenset({"axis_softmax", "product", *REDUCED, *RESHAPED})


def rows(ir: IR) -> tuple[IR, dict[int, str]]:
    """The graph with positions of weights read before the weights are computed; and the softmaxes
    of one query alone, with who reads them."""
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
    """Whether a position is read, along the axis of queries, of what is made of weights."""
    axis, seen, stack = node.attrs["axis"], set[int](), [node.inputs[0]]
    while stack:
        x = ir[stack.pop()]
        if x.id in seen or axis not in x.axes or not _swaps(x, axis):
            continue
        seen.add(x.id)
        if x.op == "axis_softmax" and x.attrs["axis"] in ir[node.inputs[0]].axes:
            return True
        stack += x.inputs
    return False


def _swaps(node: Node, axis: str) -> bool:
    plain = OPS[node.op].family == "pointwise" or node.op in SWAPPED
    return plain and axis not in (node.attrs.get("axis"), *node.attrs.get("contract", ()))


class _Picked:
    """What nodes are at one position along an axis."""

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
        if _swaps(node, self.axis) and node.id not in self.looped:
            inputs = [Expr(self.new, self(j)) for j in node.inputs]
            made = make(node.op, *inputs, **node.attrs)
        else:
            end = [Expr(self.new, j) for j in self.at.inputs[1:]]
            made = make("axis_at", Expr(self.new, node.id), *end, **self.at.attrs)
        self.new.here = before
        return made.id
