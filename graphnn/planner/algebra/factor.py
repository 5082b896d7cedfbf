"""Factoring: sums of multiples of one value in a loop become one product.

`x(t) u + y(t) u` becomes `(x(t) + y(t)) u`. If x and y come from outside the loop, their sum leaves
it, and one product per step remains.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite


def factor_out(ir: IR) -> IR:
    """Factor out values of the loop that are multiplied by values from outside."""
    home, users = loop_numbers(ir), ir.users()
    outputs = set(ir.outputs.values())
    moved: dict[int, int] = {}

    def multiples(i: int, total: Node) -> list[tuple[int, int]]:
        """Node `i` as pairs (value of the loop, factor from outside), if it is such a product."""
        node = ir[i]
        alone = node.op == "mul" and len(users[i]) == 1 and i not in outputs
        if not alone or home.get(i) != home.get(total.id) or node.dtype != total.dtype:
            return []
        a, b = node.inputs
        same = [(u, x) for u, x in ((a, b), (b, a)) if u in home and x not in home]
        return [(u, x) for u, x in same if ir[u].dtype == ir[x].dtype and ir[x].op != "const"]

    def rule(new: IR, node: Node) -> Expr | None:
        old = ir.nodes.get(node.id)
        if old is None or old.op != "add" or old.id not in home:
            return None
        for u, x in multiples(old.inputs[0], old):
            for v, y in multiples(old.inputs[1], old):
                if u == v:
                    return (Expr(new, moved[x]) + Expr(new, moved[y])) * Expr(new, moved[u])
        return None

    return rewrite(ir, rule, moved)
