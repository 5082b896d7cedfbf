"""Assigns each box to a row, so that data flows downwards and bands stand in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphnn.pictures.scenes.scene import Box, Key, Scene

if TYPE_CHECKING:
    import networkx as nx

WAITS = frozenset({"input", "parameter", "delay", "junction"})


def rows(scene: Scene) -> dict[Key, int]:
    """The row of each box.

    Boxes of a later band stand below all boxes of an earlier one. All copies of a box stand in one
    row.
    """
    import networkx as nx  # imported late: it takes 0.2 s

    one = {k: k if b.twin is None else ("copies", b.twin) for k, b in scene.boxes.items()}
    boxes: dict[Key, Box] = {}
    for k, b in scene.boxes.items():
        boxes.setdefault(one[k], b)
    net = nx.DiGraph()
    net.add_nodes_from(boxes)
    net.add_edges_from((one[a], one[b]) for a, b in scene.forward().edges if one[a] != one[b])
    row = _rows(boxes, net)
    if len(scene.bands) > 1:
        _sink_outputs(boxes, row)
    used = {r: n for n, r in enumerate(sorted(set(row.values())))}
    return {k: used[row[one[k]]] for k in scene.boxes}


def _rows(boxes: dict[Key, Box], net: nx.DiGraph) -> dict[Key, int]:
    import networkx as nx  # imported late: it takes 0.2 s

    order = list(nx.topological_sort(net))
    row: dict[Key, int] = {}
    last = -1
    for band in sorted({b.band for b in boxes.values()}):
        mine = [k for k in order if boxes[k].band == band]
        for k in mine:
            above = [row[j] + 1 for j in net.predecessors(k) if j in row]
            row[k] = max([last + 1, *above])
        end = max(row[k] for k in mine)
        _sink(boxes, net, row, mine, end)
        last = end
    return row


def _sink(
    boxes: dict[Key, Box], net: nx.DiGraph, row: dict[Key, int], mine: list[Key], end: int
) -> None:
    """Move boxes without sources down to just above their first reader."""
    own = set(mine)
    for k in reversed(mine):
        if boxes[k].kind in WAITS or not any(j in row for j in net.predecessors(k)):
            below = [row[j] if j in own else end + 1 for j in net.successors(k)]
            row[k] = max(row[k], min(below, default=row[k] + 1) - 1)


def _sink_outputs(boxes: dict[Key, Box], row: dict[Key, int]) -> None:
    """Put the outputs of a plan into one row at the bottom."""
    outputs = [k for k, b in boxes.items() if b.kind == "output"]
    if outputs:
        row.update(dict.fromkeys(outputs, max(row.values()) + 1))
