"""Splits a linear map of a concatenation into a sum of linear maps.

This is done if a part of the concatenation comes from outside the loop. The matmul of that part
then leaves the loop and runs over the whole axis at once.
"""

from __future__ import annotations

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.matmul import split_sub
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import rewrite


def split_linear_maps(ir: IR) -> IR:
    """Split matmuls of concatenations whose parts belong to different regions."""
    home = loop_numbers(ir)

    def rule(new: IR, node: Node) -> Expr | None:
        if node.op != "einsum":
            return None
        old = ir[node.id]
        for side in (0, 1):
            joined = ir[old.inputs[side]]
            if joined.op != "cat" or not _contracted(node, joined.attrs["dim"], side):
                continue
            homes = {home.get(i) for i in joined.inputs}
            if home.get(node.id) is not None and len(homes) > 1:
                return split_matmul(new, node, side)
        return None

    return rewrite(ir, rule)


def _contracted(node: Node, dim: int, side: int) -> bool:
    parts = split_sub(node.attrs["sub"])
    letter = parts[side][dim]
    return letter in parts[1 - side] and letter not in parts[2] and not node.attrs["contract"]


def split_matmul(new: IR, node: Node, side: int) -> Expr:
    """The sum of one matmul per part of the concatenation at operand `side`."""
    joined, other = Expr(new, node.inputs[side]), Expr(new, node.inputs[1 - side])
    letters = split_sub(node.attrs["sub"])
    dim = joined.node.attrs["dim"]
    across = letters[1 - side].index(letters[side][dim])
    total, start = None, 0
    for i in joined.node.inputs:
        part = Expr(new, i)
        stop = start + part.shape[dim]
        cut = make("slice", other, dim=across, start=start, stop=stop, step=1)
        pair = (part, cut) if side == 0 else (cut, part)
        term = make("einsum", *pair, sub=node.attrs["sub"], contract=frozenset())
        total, start = (term if total is None else total + term), stop
    assert total is not None
    return total
