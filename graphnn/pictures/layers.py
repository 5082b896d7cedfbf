"""layers: which row each box stands in, so that data flows downwards; rows of bands in order."""

from __future__ import annotations

import networkx as nx

from graphnn.pictures.scene import Key, Scene

WAITS = frozenset({"input", "parameter", "delay"})


def layers(scene: Scene) -> dict[Key, int]:
    """The row of every box. Boxes of a later band stand lower than all of an earlier one."""
    net = scene.forward()
    order = list(nx.topological_sort(net))
    row: dict[Key, int] = {}
    last = -1
    for band in sorted({b.band for b in scene.boxes.values()}):
        mine = [k for k in order if scene.boxes[k].band == band]
        for k in mine:
            above = [row[j] + 1 for j in net.predecessors(k) if j in row]
            row[k] = max([last + 1, *above])
        end = max(row[k] for k in mine)
        _sink(scene, net, row, mine, end)
        last = end
    _sink_outputs(scene, row)
    used = {r: n for n, r in enumerate(sorted(set(row.values())))}
    return {k: used[r] for k, r in row.items()}


def _sink(scene: Scene, net: nx.DiGraph, row: dict[Key, int], mine: list[Key], end: int) -> None:
    """Let what nothing holds up stand just above the first that reads it."""
    own = set(mine)
    for k in reversed(mine):
        readers = list(net.successors(k))
        if scene.boxes[k].kind in WAITS or not any(j in row for j in net.predecessors(k)):
            below = [row[j] if j in own else end + 1 for j in readers]
            row[k] = max(row[k], min(below, default=row[k] + 1) - 1)


def _sink_outputs(scene: Scene, row: dict[Key, int]) -> None:
    """With a plan, outputs stand together beneath it."""
    outputs = [k for k, b in scene.boxes.items() if b.kind == "output"]
    if len(scene.bands) > 1 and outputs:
        bottom = max(row[k] for k in outputs)
        row.update(dict.fromkeys(outputs, bottom))
