"""addmm fusion: `c + a·b` becomes one `affine` operation if nothing else reads the matmul."""

from __future__ import annotations

from collections.abc import Collection

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import keep, reachable, rewrite


def fuse_addmm(ir: IR, in_loops: bool = True, excluded: Collection[int] = ()) -> IR:
    """Fuse sums with a matmul into `affine` nodes. This is the last pass before code generation.

    Loops that are still to be differentiated stay as they are (`in_loops` false), as do the nodes
    in `excluded`, which belong to them.
    """
    users, home = ir.users(), loop_numbers(ir)
    outputs = set(ir.outputs.values())

    def matmul_side(old: Node) -> int | None:
        for side in (1, 0):
            i = old.inputs[side]
            node = ir[i]
            alone = len(users[i]) == 1 and i not in outputs and home.get(i) == home.get(old.id)
            if node.op == "einsum" and alone and node.shape == old.shape:
                return side
        return None

    def rule(new: IR, node: Node) -> Expr | None:
        old = ir[node.id] if node.id in ir.nodes else node
        if old.id in excluded or (not in_loops and old.id in home):
            return None
        if node.op != "add" or (side := matmul_side(old)) is None:
            return None
        product, c = new[node.inputs[side]], Expr(new, node.inputs[1 - side])
        if c.node.op == "const" or not c.axes <= product.axes or product.dtype != c.dtype:
            return None
        a, b = (Expr(new, i) for i in product.inputs)
        return make("affine", c, a, b, **product.attrs)

    new = rewrite(ir, rule)
    roots = [*new.outputs.values(), *new.until.values()]
    roots += [n.id for n in new if n.op in ("random", "input", "given")]
    return keep(new, reachable(new, roots))
