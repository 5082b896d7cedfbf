"""Selects the nodes of a graph that are computed in tiles of queries and keys."""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.attention.tiles import OWN, supported
from graphnn.planner.core.rewrite import reachable


def independent(ir: IR, sums: list[int]) -> list[int]:
    """The sums that do not depend on others."""
    if len(sums) == 1:
        return sums
    found: list[int] = []
    for i in sums:
        if not (reachable(ir, [i]) - {i}) & set(sums):
            found.append(i)
    return found


class TileMembers:
    """Decides which nodes belong into tiles: those that are larger than their operands."""

    def __init__(self, ir: IR, axis: str, home: dict[int, int]):
        self.ir, self.axis, self.home = ir, axis, home
        self.known: dict[int, bool] = {}

    def __call__(self, i: int) -> bool:
        if i not in self.known:
            self.known[i] = self._decide(self.ir[i])
        return self.known[i]

    def _decide(self, node: Node) -> bool:
        if node.id in self.home or node.op in OWN or not supported(node):
            return False
        parts = self.ir.operands(node)
        if self._positional(node):
            return True
        if not node.dtype.is_floating_point:
            # a mask is recomputed in each tile, unless it is as large as its operands
            return all(p.axes != node.axes or p.op in OWN or self(p.id) for p in parts)
        if self.axis not in node.axes:
            return False
        numbers = [p for p in parts if p.dtype.is_floating_point and p.axes]
        if any(self(p.id) for p in numbers):
            return True
        if numbers and all(p.axes != node.axes for p in numbers):
            return True
        return self._matched(node, numbers)

    def _positional(self, node: Node) -> bool:
        """Whether a value depends on positions and lengths alone; recomputing it is cheaper."""
        if node.op in OWN or node.op == "length":
            return True
        return OPS[node.op].family == "pointwise" and all(
            self._positional(p) for p in self.ir.operands(node)
        )

    def _matched(self, node: Node, numbers: list[Node]) -> bool:
        """Whether a node is a dot product of a key with its own query; each is then read once."""
        if node.op != "einsum" or len(numbers) != 2:
            return False
        left, right, out = split_sub(node.attrs["sub"])
        alone = any(self.axis not in p.axes for p in numbers)
        return alone and bool((set(left) & set(right)) - set(out))

    def all(self, roots: list[int]) -> set[int]:
        """All nodes in tiles that the roots depend on."""
        found: set[int] = set()
        stack = [i for i in roots if self(i)]
        while stack:
            i = stack.pop()
            if i not in found:
                found.add(i)
                stack += [j for j in self.ir[i].inputs if self(j)]
        return found
