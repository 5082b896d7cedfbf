"""Merges the calls of one module into one box, so that its weights are drawn once."""

from __future__ import annotations

from dataclasses import replace

from graphnn.pictures.scenes.scene import Edge, Key, Scene


def merge_calls(scene: Scene) -> Scene:
    """The scene with one box per module.

    If a call feeds a later call of the same module, the edge that closes the cycle becomes a
    `back` edge without a delay. Numbers at the ends of edges give the order of the calls.
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
    _break_cycles(merged)
    return merged


def _break_cycles(scene: Scene) -> None:
    """Turn edges into later calls into back edges until the forward edges are acyclic."""
    while cycle := _cycle(scene):
        inside = [
            (e.enters, n)
            for n, e in enumerate(scene.edges)
            if not e.back and e.source in cycle and e.target in cycle and e.enters
        ]
        _, worst = max(inside)
        edge: Edge = scene.edges[worst]
        scene.edges[worst] = replace(edge, back=True)


def _cycle(scene: Scene) -> set[Key]:
    import networkx as nx  # imported late: it takes 0.2 s

    net = scene.forward()
    own = [{a} for a, _ in nx.selfloop_edges(net)]
    cycles = [c for c in nx.strongly_connected_components(net) if len(c) > 1]
    return next(iter([*cycles, *own]), set())
