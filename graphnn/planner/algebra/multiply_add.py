"""Multiply-add fusion: sums of products in a loop become single operations.

`z a + (1 - z) b` becomes one interpolation (lerp), `x + a b` one multiply-add (addcmul). This gives
fewer calls per step and fewer values to save.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.planner.algebra.simplify import simplify
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite


def fuse_multiply_add(ir: IR, everywhere: bool = False) -> IR:
    """Use lerp and addcmul if nothing else reads the parts.

    If `everywhere`, operations before and after loops are fused too.
    """
    users, home = ir.users(), loop_numbers(ir)
    outputs = set(ir.outputs.values())

    def alone(i: int, op: str, like: Node) -> Node | None:
        """Node `i` if it is an `op` with the shape of `like` that only one node reads."""
        node = ir[i]
        same = node.op == op and node.shape == like.shape and node.axes == like.axes
        free = len(users[i]) == 1 and i not in outputs and home.get(i) == home.get(like.id)
        return node if same and free else None

    def lerp(node: Node, at: dict[int, int], new: IR) -> Expr | None:
        parts = [alone(i, "mul", node) for i in node.inputs]
        if None in parts:
            return None
        for first, second in ((parts[0], parts[1]), (parts[1], parts[0])):
            for z, a in (first.inputs, first.inputs[::-1]):  # type: ignore[union-attr]
                for rest, b in (second.inputs, second.inputs[::-1]):  # type: ignore[union-attr]
                    if _is_rest(ir, rest, z) and _same_dtype(ir, node, (a, b, z)):
                        return make("lerp", *(Expr(new, at[i]) for i in (b, a, z)))
        return None

    def addcmul(node: Node, at: dict[int, int], new: IR) -> Expr | None:
        for i, other in (node.inputs[::-1], node.inputs):
            product = alone(i, "mul", node)
            if product is not None and _same_dtype(ir, node, (*product.inputs, other)):
                a, b = product.inputs
                return make("addcmul", *(Expr(new, at[j]) for j in (other, a, b)))
        return None

    moved: dict[int, int] = {}

    def rule(new: IR, node: Node) -> Expr | None:
        old = ir.nodes.get(node.id)
        if old is None or old.op != "add" or (old.id not in home and not everywhere):
            return None
        return lerp(old, moved, new) or addcmul(old, moved, new)

    return simplify(rewrite(ir, rule, moved))


def _is_rest(ir: IR, i: int, z: int) -> bool:
    """Whether node `i` is 1 - z."""
    node = ir[i]
    if node.op != "sub" or node.inputs[1] != z or ir[node.inputs[0]].op != "const":
        return False
    return bool(ir[node.inputs[0]].attrs["value"] == 1)


def _same_dtype(ir: IR, node: Node, operands: tuple[int, ...]) -> bool:
    """Whether all operands are values (not constants) of the dtype of the node."""
    return all(ir[i].op != "const" and ir[i].dtype == node.dtype for i in operands)
