"""Attention over the top-k positions of each query, as its kernels compute it.

The k positions form an axis of their own. Values over the original axis stay where they are in
memory, and are read through the positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from graphnn.ir.graph import IR, Axis, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import build
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.rewrite import keep, reachable, rewrite


@dataclass(frozen=True)
class TopkRegion:
    """An attention region over selected positions only.

    Its last read holds the positions: int64, of shape (axes of the results, its axis). `source` is
    the original axis; `layouts` gives the axes in memory of each read over it.
    """

    part: AttentionRegion
    source: str
    layouts: dict[int, tuple[str, ...]]

    @property
    def places(self) -> int:
        """The node of the positions."""
        return self.part.reads[-1]


def topk_region(part: AttentionRegion) -> TopkRegion:
    """The region over selected positions, which differ from query to query."""
    old = part.ir.copy()
    axis = _fresh(part)
    old.axes[axis] = Axis(axis)
    full = part.axes | {axis}
    attrs = {"key": "places", "was": "places"}
    form = {"shape": (), "dtype": torch.int64, "axes": full, "name": "places"}
    places = build(old, "given", (), attrs, **form)  # type: ignore[arg-type]
    old.nodes = {places: old[places], **old.nodes}
    layouts = {i: old.layout(old[i].axes) for i in part.reads if part.axis in old[i].axes}

    def rule(new: IR, node: Node) -> Expr | int | None:
        own = node.attrs.get("axis") == part.axis
        if own and node.op == "index":
            return places
        if node.id in layouts:
            return new.insert(replace(node, axes=full))
        if own and node.op == "axis_sum":
            return _again(new, node, axis=axis)
        if part.axis in node.attrs.get("contract", ()):
            return _again(new, node, contract=frozenset({axis}))
        return None

    new = rewrite(old, rule)
    reads = [*part.reads, places]
    new = keep(new, reachable(new, [*new.outputs.values(), *reads]))
    return TopkRegion(replace(part, axis=axis, ir=new, reads=reads), part.axis, layouts)


def _fresh(part: AttentionRegion) -> str:
    name = f"best of {part.axis}"
    while name in part.ir.axes:
        name += "_"
    return name


def _again(new: IR, node: Node, **attrs: object) -> int:
    """A sum over the selected positions only, with the id of the original sum."""
    made = make(node.op, *(Expr(new, i) for i in node.inputs), **{**node.attrs, **attrs}).node
    del new.nodes[made.id]
    return new.insert(replace(made, id=node.id))
