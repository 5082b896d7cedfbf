"""Memory order: the axes that loops run over come first, then the batch, then the others.

One step of a loop is then one contiguous block.
"""

from __future__ import annotations

import torch

from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import OPS
from graphnn.planner.core.loop_graph import views_outside
from graphnn.planner.core.regions import Loop, Whole, loops, partition


def order_axes(ir: IR) -> IR:
    """The graph with its axes in memory order; loops return only computed values."""
    order: list[str] = []
    for loop in loops(partition(ir)):
        _nest(loop, order)
    order += [n.attrs["axis"] for n in ir if n.op in ("scan", "aten")]
    order = list(dict.fromkeys(order))
    rest = [a for a in ir.axes if a not in order and a != BATCH]
    new = ir.copy()
    new.axes = {a: ir.axes[a] for a in (*order, BATCH, *rest)}
    return remake_views(new)


def remake_views(ir: IR) -> IR:
    """Recompute, outside, the views and states of loops that are read there; outer loops first."""
    ir = _with_computation(ir)
    ir = views_outside(ir, loops(partition(ir)))
    inner = [loop for outer in loops(partition(ir)) for loop in _inside(outer)]
    return views_outside(ir, inner) if inner else ir


def _with_computation(ir: IR) -> IR:
    """Add an operation to loops that only move elements.

    A loop has to compute some value that it can return, for views of it to be made outside.
    """
    outer = loops(partition(ir))
    every = [*outer, *(inner for loop in outer for inner in _inside(loop))]
    still = [loop for loop in every if all(_is_view(ir[i]) for i in loop.nodes)]
    if not still:
        return ir
    new = ir.copy()
    for state in (i for loop in still for i in loop.states):
        after = Expr(new, new.closings[state])
        same = make("logical_or", after, False) if after.dtype == torch.bool else after * 1
        new.closings[state] = same.id
    return new


def _is_view(node: Node) -> bool:
    return node.op == "delay" or OPS[node.op].family in ("view", "rename")


def _inside(loop: Loop) -> list[Loop]:
    found = []
    for region in loop.body:
        if not isinstance(region, Whole):
            found += [region, *_inside(region)]
    return found


def _nest(loop: Loop, order: list[str]) -> None:
    if loop.axis not in order:
        order.append(loop.axis)
    for region in loop.body:
        if not isinstance(region, Whole):
            _nest(region, order)
