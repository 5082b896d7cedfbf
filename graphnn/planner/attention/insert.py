"""Inserts an `attend` node into a graph in place of the nodes that it computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from graphnn.ir.graph import IR
from graphnn.ir.source_location import Site
from graphnn.ops.builder import Expr
from graphnn.ops.registry import build
from graphnn.planner.attention.tiles import AttentionRegion, Dims, Pattern
from graphnn.planner.core.loop_graph import merge_orders
from graphnn.planner.core.rewrite import keep, reachable


def unused_name(base: str, used: Sequence[str]) -> str:
    """The name, with a number if it is used already."""
    name, count = base, 2
    while name in used:
        name, count = f"{base}, {count}", count + 1
    return name


def insert_region(
    new: IR, pattern: Pattern, part: AttentionRegion, dims: Dims, site: Site | None
) -> tuple[int, dict[int, int]]:
    """Add an `attend` node for a pattern. Also returns the replacements of its exits."""
    given = [dims.given(Expr(new, i), i) for i in pattern.reads]
    made = [part.ir[i] for i in part.results]
    axes = frozenset().union(*(n.axes for n in made)) or part.axes
    node = build(
        new,
        "attend",
        [x.id for x in given],
        {"part": part, "axes": axes - set(part.parts)},
        shape=made[0].shape if made else (),
        dtype=new.floating,
        axes=axes - set(part.parts),
        name=part.name,
        site=site,
    )
    swap: dict[int, int] = {}
    for which, (i, result) in enumerate(zip(pattern.exits, made, strict=True)):
        old = new[i]
        new.here = (old.name, old.site)
        sizes = [part.ir.axes[a].length or 0 for a in part.parts]
        attrs = {"which": which, "axes": result.axes - set(part.parts)}
        shape = (*sizes, *result.shape)
        pick = build(new, "pick", (node,), attrs, shape=shape, dtype=old.dtype)
        swap[i] = dims.taken(Expr(new, pick), i).id
    new.here = ("", None)
    return node, swap


def rewire(ir: IR, swap: dict[int, int]) -> IR:
    """The graph with nodes replaced as in `swap`, and without nodes that nothing reads."""
    nodes = {
        i: replace(n, inputs=tuple(swap.get(j, j) for j in n.inputs))
        if any(j in swap for j in n.inputs)
        else n
        for i, n in ir.nodes.items()
    }
    ir.closings = {d: swap.get(s, s) for d, s in ir.closings.items()}
    ir.outputs = {k: swap.get(i, i) for k, i in ir.outputs.items()}
    ir.until = {a: swap.get(i, i) for a, i in ir.until.items()}
    ir.nodes = merge_orders(nodes, {})
    roots = [*ir.outputs.values(), *ir.until.values()]
    roots += [n.id for n in ir if n.op in ("random", "input", "given")]
    return keep(ir, reachable(ir, roots))
