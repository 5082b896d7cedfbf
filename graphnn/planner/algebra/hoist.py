"""Hoisting: the terms of a sum in a loop that come from outside are added outside.

`(W x(t) + U z(t-1)) + b` becomes `(W x(t) + b) + U z(t-1)`. The first part then leaves the loop.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite


def hoist(ir: IR) -> IR:
    """Regroup sums of three or more terms: terms from outside the loop first."""
    home, users = loop_numbers(ir), ir.users()
    moved: dict[int, int] = {}

    def joins(i: int, root: Node) -> bool:
        """Whether node `i` is a sum that only continues the sum `root`."""
        node = ir[i]
        same = node.op == "add" and home.get(i) == home[root.id]
        return same and len(users[i]) == 1 and i not in ir.outputs.values()

    def terms(root: Node) -> list[int]:
        found, stack = list[int](), [*reversed(root.inputs)]
        while stack:
            i = stack.pop()
            if joins(i, root):
                stack += reversed(ir[i].inputs)
            else:
                found.append(i)
        return found

    def continued(i: int) -> bool:
        """Whether another sum contains the terms of sum `i`."""
        reader = ir[users[i][0]] if users[i] else ir[i]
        return reader.op == "add" and reader.id in home and joins(i, reader)

    def rule(new: IR, node: Node) -> Expr | None:
        old = ir.nodes.get(node.id)
        if old is None or old.op != "add" or old.id not in home or continued(old.id):
            return None
        found = terms(old)
        outside = [i for i in found if i not in home]
        if len(outside) < 2 or len(outside) == len(found):
            return None
        # matmuls next: addmm fusion absorbs a sum with one, and sums of gates become one operation
        inside = sorted((i for i in found if i in home), key=lambda i: ir[i].op != "einsum")
        # weights first: their sum does not vary over time, so it is computed once
        outside.sort(key=lambda i: len(ir[i].axes))
        total = _sum([Expr(new, moved[i]) for i in outside])
        return _sum([total, *(Expr(new, moved[i]) for i in inside)])

    return rewrite(ir, rule, moved)


def _sum(parts: list[Expr]) -> Expr:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
