"""share: calls of one module become one box, its weights drawn once; edges say which call."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from graphnn.pictures.scenes.scene import Edge, Key, Scene


def share(scene: Scene) -> Scene:
    """The scene with one box a module.

    Where a call feeds a later call of the same module, the edge that closes the circle is a `back`
    edge without a delay: the numbers at its ends say in which order to go.
    """
    calls: dict[str, list[Key]] = {}
    for box in scene.boxes.values():
        if box.kind == "module":
            calls.setdefault(box.shares, []).append(box.key)
    number = {k: n + 1 for keys in calls.values() if len(keys) > 1 for n, k in enumerate(keys)}
    home = {k: keys[0] for keys in calls.values() for k in keys}
    merged = Scene(scene.name, bands=scene.bands, headings=scene.headings)
    for key, box in scene.boxes.items():
        first = home.get(key, key)
        if first == key:
            several = len(calls.get(box.shares, ())) if box.kind == "module" else 1
            lines = (*box.lines[:1], f"{several} calls") if several > 1 else box.lines
            merged.boxes[key] = replace(box, lines=lines)
        else:
            own = merged.boxes[first]
            merged.boxes[first] = replace(own, nodes=own.nodes | box.nodes)
    merged.edges = [
        replace(
            e,
            source=home.get(e.source, e.source),
            target=home.get(e.target, e.target),
            leaves=number.get(e.source, 0),
            enters=number.get(e.target, 0),
        )
        for e in scene.edges
    ]
    _open(merged)
    return merged


def _open(scene: Scene) -> None:
    """Make back edges of those into later calls, until none of the forward ones goes round."""
    while cycle := _circle(scene):
        inside = [
            (e.enters, n)
            for n, e in enumerate(scene.edges)
            if not e.back and e.source in cycle and e.target in cycle and e.enters
        ]
        _, worst = max(inside)
        edge: Edge = scene.edges[worst]
        scene.edges[worst] = replace(edge, back=True)


def _circle(scene: Scene) -> set[Key]:
    net = scene.forward()
    own = [{a} for a, _ in nx.selfloop_edges(net)]
    rounds = [c for c in nx.strongly_connected_components(net) if len(c) > 1]
    return next(iter([*rounds, *own]), set())
