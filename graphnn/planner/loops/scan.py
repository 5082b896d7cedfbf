"""Parallel scans: loops whose state enters only as `a(t) * z + b(t)` become one scan.

`a` and `b` are then computed for the whole axis at once, and the scan itself runs in parallel
(Blelloch 1990).
"""

from __future__ import annotations

import torch

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr, const, make
from graphnn.ops.registry import build
from graphnn.planner.core.regions import Loop, loops, partition
from graphnn.planner.core.rewrite import keep, reachable, rewrite

Affine = tuple[Expr, Expr]


def scannable(ir: IR, loop: Loop) -> bool:
    """Whether a loop is affine in its one state: products and sums with outside values only."""
    if len(loop.states) != 1 or loop.stop is not None:
        return False
    (z,) = loop.states
    if not ir[z].dtype.is_floating_point:
        return False  # scans compute in floating dtypes
    if abs(ir[z].attrs["steps"]) != 1 or any(ir[i].axes != ir[z].axes for i in loop.nodes):
        return False
    inside = set(loop.nodes)
    return all(i == z or _affine(ir[i], inside) for i in loop.nodes) and all(
        ir[i].shape == ir[z].shape for i in loop.nodes
    )


def _affine(node: Node, inside: set[int]) -> bool:
    moving = [i in inside for i in node.inputs]
    if node.op in ("add", "sub", "neg"):
        return True
    if node.op == "mul":
        return sum(moving) == 1
    if node.op == "div":
        return moving == [True, False]
    # a masked state: where(valid, next, z) chooses between two affine forms
    return node.op == "where" and not moving[0]


def scan(ir: IR) -> IR:
    """Replace every scannable outermost loop by a `scan` node."""
    found = [loop for loop in loops(partition(ir)) if scannable(ir, loop)]
    if not found:
        return ir
    home = {i: loop for loop in found for i in loop.nodes}
    pairs: dict[int, Affine] = {}
    made: dict[int, Expr] = {}
    moved: dict[int, int] = {}

    def rule(new: IR, node: Node) -> Expr | int | None:
        loop = home.get(node.id)
        if loop is None:
            return None
        (z,) = loop.states
        if node.id == z:
            pairs[z] = (const(new, 1.0), const(new, 0.0))
            return None
        old = ir[node.id]
        pairs[node.id] = _compose(new, old, pairs, lambda i: Expr(new, moved[i]))
        if node.id == ir.closings[z]:
            made[z] = _scan(new, ir[z], pairs[node.id], moved)
            return made[z]
        return None

    new = rewrite(ir, rule, moved)
    # other values of the loop that are read outside read the state as a shifted sequence
    for z, result in made.items():
        if moved[z] in new.nodes:
            new.closings[moved[z]] = result.id
    new = _reordered(new)
    roots = [*new.outputs.values(), *new.until.values()]
    roots += [n.id for n in new if n.op in ("random", "input", "given")]
    return keep(new, reachable(new, roots))


def _reordered(ir: IR) -> IR:
    from graphnn.planner.core.loop_graph import merge_orders

    new = ir.copy()
    new.nodes = merge_orders(ir.nodes, {})
    return new


def _compose(new: IR, node: Node, pairs: dict[int, Affine], at: object) -> Affine:
    def pair(i: int) -> Affine:
        return pairs[i] if i in pairs else (const(new, 0.0), at(i))  # type: ignore[operator]

    if node.op in ("add", "sub"):
        (a, b), (c, d) = (pair(i) for i in node.inputs)
        return make(node.op, a, c), make(node.op, b, d)
    if node.op == "neg":
        a, b = pair(node.inputs[0])
        return -a, -b
    if node.op == "where":
        choice = at(node.inputs[0])  # type: ignore[operator]
        (a, b), (c, d) = (pair(i) for i in node.inputs[1:])
        return _where(choice, a, c, node.dtype), _where(choice, b, d, node.dtype)
    moving, other = node.inputs if node.inputs[0] in pairs else node.inputs[::-1]
    (a, b), factor = pairs[moving], at(other)  # type: ignore[operator]
    if factor.dtype != node.dtype and factor.node.op != "const":
        # a constant times an integer would have torch's default dtype
        factor = make("cast", factor, dtype=node.dtype)
    return make(node.op, a, factor), make(node.op, b, factor)


def _where(choice: Expr, a: Expr, b: Expr, dtype: torch.dtype) -> Expr:
    if a.node.op == "const" and b.node.op == "const":
        if a.node.attrs["value"] == b.node.attrs["value"]:
            return a
        gap = a.node.attrs["value"] - b.node.attrs["value"]
        flag = make("cast", choice, dtype=dtype)
        return flag * gap + b.node.attrs["value"]
    chosen = make("where", choice, a, b)
    # two constants would have torch's default dtype
    return chosen if chosen.dtype == dtype else make("cast", chosen, dtype=dtype)


def _scan(new: IR, z: Node, pair: Affine, moved: dict[int, int]) -> Expr:
    operands = [*pair, Expr(new, moved[z.inputs[0]])]
    node = build(
        new,
        "scan",
        [x.id for x in operands],
        {
            "axis": z.attrs["axis"],
            "axes": z.axes,
            "reverse": z.attrs["steps"] < 0,
            "state": z.name,
            "stated": z.attrs.get("stated", False),
        },
        shape=z.shape,
        dtype=z.dtype,
        axes=z.axes,
        name=f"{z.name}_next" if z.name else "",
        site=z.site,
    )
    return Expr(new, node)
