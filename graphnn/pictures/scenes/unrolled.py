"""Unrolls a scene over n steps of an axis: one copy per step, side by side in time order.

A module has the same colour in all copies, as its weights are shared. Boxes that do not vary over
the axis are drawn once, before or after the copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphnn.ir.graph import IR
from graphnn.ops.registry import OPS
from graphnn.pictures.scenes.scene import Box, Edge, Key, Scene


def unrolled(scene: Scene, ir: IR, steps: Mapping[str, int]) -> Scene:
    """The scene with `steps[axis]` copies of the boxes that vary over each axis.

    The first axis stands on the left. A box that varies over several axes is copied over the last.
    """
    made, axes = scene, list(steps)
    for n, axis in enumerate(axes):
        made = _SceneUnroller(made, ir, axis, steps[axis], axes[n + 1 :]).run()
    made.name = f"{scene.name} unrolled"
    return made


class _SceneUnroller:
    """Makes copies over one axis, in new columns on the right.

    Boxes that vary over an axis in `others` are left to that axis.
    """

    def __init__(self, scene: Scene, ir: IR, axis: str, count: int, others: Sequence[str]):
        import networkx as nx  # imported late: it takes 0.2 s

        self.scene, self.ir, self.axis, self.count = scene, ir, axis, count
        self.new = Scene(scene.name, headings=dict(scene.headings))
        read = {i for e in scene.edges for i in e.values}
        varies = {
            k: frozenset[str]().union(*(ir[i].axes for i in (b.nodes & read or b.nodes)))
            for k, b in scene.boxes.items()
        }
        self.copied = {k for k, v in varies.items() if axis in v and not v & {*others}}
        net = scene.forward()
        self.after = {k for c in self.copied for k in nx.descendants(net, c)}
        # the column before the copies
        columns = [b.column for b in scene.boxes.values()]
        self.start = max([*columns, *(n + 1 for n in scene.headings)], default=0)
        # boxes that feed an earlier column stand with it
        placed = [k for k, b in scene.boxes.items() if b.column]
        self.early = {a for k in placed for a in nx.ancestors(net, k)}

    def run(self) -> Scene:
        for key, box in self.scene.boxes.items():
            for made in self._copies(key, box):
                self.new.boxes[made.key] = made
        for edge in self.scene.edges:
            if edge.back and self._delays(edge.target):
                self._through(edge)
            else:
                self._plain(edge)
        for p in range(self.count):
            self.new.headings[self.start + p + 1] = f"{self.axis} {p + 1}"
        return self.new

    def _copies(self, key: Key, box: Box) -> list[Box]:
        if key not in self.copied:
            return [replace(box, column=self._column(key, box))]
        found = []
        for p in range(self.count):
            made = replace(box, key=(key, p), column=self.start + p + 1, twin=key)
            if box.kind in ("input", "output"):
                made = replace(made, title=f"{box.title}({p + 1})")
            if self._delays(key):
                made = self._state(made, p)
            found.append(made)
        return found

    def _column(self, key: Key, box: Box) -> int:
        """The column of a box that is drawn once: after the copies, unchanged, or before them."""
        if key in self.after and not (box.column and box.twin is not None):
            return self.start + self.count + 1
        return box.column if box.column or key in self.early else self.start

    def _delays(self, key: Key) -> bool:
        """Whether a box is a state over the unrolled axis."""
        box = self.scene.boxes[key]
        return box.kind == "delay" and all(self.ir[i].attrs["axis"] == self.axis for i in box.nodes)

    def _steps(self, key: Key) -> int:
        return int(self.ir[next(iter(self.scene.boxes[key].nodes))].attrs["steps"])

    def _state(self, box: Box, p: int) -> Box:
        """A state in one copy: a junction of edges between copies, named by its step."""
        node = self.ir[next(iter(box.nodes))]
        title = f"{node.label}({p + 1 - node.attrs['steps']})".replace("(-", "(−")
        first = self._first(box.twin, p)
        if first is not None and self.ir[first].op == "const":
            title += f" = {self.ir[first].attrs['value']:g}"
        return replace(box, kind="junction", title=title, lines=box.lines[:1])

    def _first(self, key: Key, p: int) -> int | None:
        """The initial value of a state in a copy, or None if an earlier copy gives the value."""
        node = self.ir[next(iter(self.scene.boxes[key].nodes))]
        if 0 <= p - node.attrs["steps"] < self.count:
            return None
        slot = p if node.attrs["steps"] > 0 else self.count - 1 - p
        return node.inputs[slot if len(node.inputs) > 1 else 0]

    def _through(self, edge: Edge) -> None:
        """Draw a delay as a plain edge from one copy to a later one."""
        steps = self._steps(edge.target)
        for p in range(self.count):
            if 0 <= p - steps < self.count:
                source = (edge.source, p - steps) if edge.source in self.copied else edge.source
                self.new.edges.append(
                    replace(edge, source=source, target=(edge.target, p), mark="")
                )

    def _plain(self, edge: Edge) -> None:
        source, target = edge.source in self.copied, edge.target in self.copied
        targets = [(edge.target, p) for p in range(self.count)] if target else [edge.target]
        for key in targets:
            p = key[1] if target else None  # type: ignore[index]
            joint = p is not None and self._delays(edge.target)
            if joint and p is not None and self._first(edge.target, p) not in edge.values:
                continue
            for q in self._sources(edge, p) if source else [None]:
                begin = edge.source if q is None else (edge.source, q)
                self.new.edges.append(replace(edge, source=begin, target=key))

    def _sources(self, edge: Edge, p: int | None) -> list[int]:
        """The copies that a box reads: its own, or several if it operates along the axis."""
        box = self.scene.boxes[edge.target]
        nodes = [self.ir[i] for i in box.nodes if box.kind != "output"]
        takes = [n for n in nodes if OPS[n.op].family == "axis" and n.attrs["axis"] == self.axis]
        # if the box reads several values, only those of this edge count
        takes = [n for n in takes if edge.values & set(n.inputs)] or takes
        if takes and all(n.op == "axis_at" for n in takes):
            return sorted({n.attrs["position"] % self.count for n in takes})
        return list(range(self.count)) if takes or p is None else [p]
