"""Builds the scene of a graph, with its loops drawn as loops."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable

import torch
from torch import nn

from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS
from graphnn.pictures.scenes import labels
from graphnn.pictures.scenes.groups import Group, Grouping
from graphnn.pictures.scenes.scene import Box, Edge, Key, Scene
from graphnn.planner.loops.choose import LAYER

KINDS = frozenset({"input", "module", "math", "delay", "loop"})
Place = Callable[[int], Hashable]


def build(ir: IR, owner: nn.Module, place: Place, dropped: Collection[str] = ()) -> Scene:
    """The scene of a graph whose parameters belong to `owner`.

    Operations with different `place` (in one loop, in another, in none) never share a box. Sizes
    leave out the axes in `dropped`.
    """
    return Builder(ir, owner, place, dropped).run()


class Builder:
    """Makes the scene of a graph.

    If `separate`, the parts of one module call get a box per place. `band` gives the part of the
    plan that a node belongs to; `notes` gives an extra line for its box.
    """

    def __init__(
        self,
        ir: IR,
        owner: nn.Module,
        place: Place,
        dropped: Collection[str] = (),
        separate: bool = False,
        band: Callable[[int], int] = lambda _: 0,
        notes: Callable[[int], str] = lambda _: "",
    ):
        self.ir, self.band, self.notes, self.dropped = ir, band, notes, dropped
        self.modules = dict(owner.named_modules())
        self.found = Grouping(ir, self._owns, place, separate)
        self.outside = self.found.outside()
        self.scene = Scene(ir.name)
        self.key = {g: n for n, g in enumerate(self.found.groups)}
        self.arithmetic = self._arithmetic()
        self.split = self._split()
        self.closes: dict[int, list[str]] = {}
        for delay, i in ir.closings.items():
            self.closes.setdefault(i, []).append(ir[delay].label)

    def _owns(self, path: str) -> bool:
        return bool(path) and path in self.modules and bool(self._own(path))

    def _own(self, path: str) -> list[torch.Tensor]:
        module = self.modules[path]
        if isinstance(module, nn.ParameterList | nn.ParameterDict):
            return []
        return [*module.parameters(recurse=False), *module.buffers(recurse=False)]

    def run(self) -> Scene:
        for group in self._sorted():
            self._box(group)
        self._edges()
        self._outputs()
        _dissolve(self.scene, self._empty())
        return self.scene

    def _sorted(self) -> list[Group]:
        """The groups in topological order."""
        import networkx as nx  # imported late: it takes 0.2 s

        net = nx.DiGraph()
        net.add_nodes_from(self.found.groups)
        for node in self.ir:
            for i in node.inputs:
                a, b = self.found.of.get(i), self.found.of.get(node.id)
                if a and b and a is not b:
                    net.add_edge(a, b)
        return list(nx.lexicographical_topological_sort(net, key=lambda g: min(g.nodes)))

    def _empty(self) -> list[Key]:
        """Boxes that only slice, join or reshape: an edge in their place says the same."""
        return [
            self.key[g]
            for g in self.found.groups
            if self.found.only_views(g) and len(self.outside[g]) < 2 and not self._work(g)
        ]

    def _work(self, group: Group) -> bool:
        """Whether the group joins values and a note names the kernel that writes them."""
        joins = any(OPS[self.ir[i].op].family == "join" for i in group.nodes)
        return joins and bool(self.notes(group.nodes[0]))

    def _arithmetic(self) -> set[tuple[str, int]]:
        """Statements of arithmetic alone: a box can show their source text."""
        kinds: dict[tuple[str, int], set[str]] = {}
        for group in self.found.groups:
            for i in group.nodes:
                if found := labels.statement(self.ir[i].site):
                    kinds.setdefault((found.file, found.line), set()).add(group.kind)
        return {key for key, found in kinds.items() if found == {"math"}}

    def _split(self) -> set[Group]:
        """Groups that hold only a part of their statement; a neighbour holds the rest."""
        found: set[Group] = set()
        for node in self.ir:
            for i in node.inputs:
                a, b = self.found.of.get(i), self.found.of.get(node.id)
                whole = labels.statement(node.site)
                if a and b and a is not b and whole and whole == labels.statement(self.ir[i].site):
                    found |= {a, b}
        return found

    def _box(self, group: Group) -> None:
        node = self.ir[group.nodes[0]]
        kind = group.kind if group.kind in KINDS else "parameter"
        title, lines = getattr(self, f"_{kind}")(group, node)
        key = self.key[group]
        lines = tuple(x for x in (*lines, self.notes(group.nodes[0])) if x)
        nodes = frozenset(group.nodes)
        band = self.band(group.nodes[0])
        self.scene.boxes[key] = Box(
            key, kind, title, lines, " + ".join(group.modules), band, 0, nodes
        )

    def _input(self, group: Group, node: Node) -> tuple[str, tuple[str, ...]]:
        return node.label, (self._size(node),)

    def _delay(self, group: Group, node: Node) -> tuple[str, tuple[str, ...]]:
        numbers = [self.ir[i].attrs["value"] for i in node.inputs if self.ir[i].op == "const"]
        start = f"starts at {numbers[0]:g}" if any(numbers) else ""
        lines = (self._size(node), start)
        return labels.ago(node.label, node.attrs["steps"]), tuple(x for x in lines if x)

    def _parameter(self, group: Group, node: Node) -> tuple[str, tuple[str, ...]]:
        axis = f" of {node.attrs['axis']}" if "axis" in node.attrs else ""
        named = f"{node.attrs.get('kind', 'random')} noise" if node.op == "random" else node.op
        return named + axis, (self._size(node),)

    def _module(self, group: Group, node: Node) -> tuple[str, tuple[str, ...]]:
        title = labels.joined(group.modules)
        if len(group.modules) > 1:
            return labels.shortened(title), ("one matmul", *self._sizes(group))
        line = labels.module_line(self.modules[title])
        own = set(group.modules)
        others = [g for g in self.found.groups if own & {*g.modules} and g is not group]
        # two calls read the same weights; two parts of one call read different weights
        if others and all(group.read.isdisjoint(g.read) for g in others):
            line = f"part of {line}"
            if all(self.ir[i].op == "add" for i in group.nodes):
                title, line = f"bias of {title}", ""
        return title, (line, *self._sizes(group))

    def _loop(self, group: Group, node: Node) -> tuple[str, tuple[str, ...]]:
        """A loop that the plan turned into one operation."""
        how = f"torch's {LAYER[node.attrs['kind']]}" if node.op == "aten" else "a scan"
        states = list(node.attrs.get("states", (node.label.removesuffix("_next"),)))
        return f"loop {labels.listed(states)}", (how, *self._sizes(group))

    def _math(self, group: Group, node: Node) -> tuple[str, tuple[str, ...]]:
        nodes = [self.ir[i] for i in group.nodes]
        marks = labels.symbols(nodes) or "slice and join"
        closes = labels.listed([s for i in group.nodes for s in self.closes.get(i, ())])
        written = labels.statement(nodes[-1].site)
        title = closes
        formula: tuple[str, ...] = (marks,)
        if written is not None and (written.file, written.line) in self.arithmetic:
            title = closes or labels.shortened(written.target)
            if group not in self.split:
                formula = labels.wrapped(written.value) or formula
        if not title:
            title, formula = formula[0], formula[1:]
        return title, (*formula, *self._sizes(group))

    def _size(self, node: Node) -> str:
        return labels.size(self.ir, node, self.dropped)

    def _sizes(self, group: Group) -> tuple[str, ...]:
        found = dict.fromkeys(self._size(self.ir[i]) for i in self.outside[group])
        return (next(iter(found)),) if len(found) == 1 else ()

    def _edges(self) -> None:
        made: dict[tuple[Key, Key], set[int]] = {}
        for node in self.ir:
            group = self.found.of.get(node.id)
            for i in node.inputs if group else ():
                source = self._source(i)
                assert group is not None
                if source is not None and source != self.key[group]:
                    made.setdefault((source, self.key[group]), set()).add(i)
        for (source, target), values in made.items():
            start = self.scene.boxes[target].kind == "delay"
            self.scene.edges.append(Edge(source, target, start=start, values=frozenset(values)))
        for delay, closing in self.ir.closings.items():
            source, group = self._source(closing), self.found.of.get(delay)
            if source is None or group is None:
                continue
            name, mark = self.ir[delay].label, labels.delay_mark(self.ir[delay].attrs["steps"])
            edge = Edge(source, self.key[group], True, name, mark, values=frozenset({closing}))
            self.scene.edges.append(edge)

    def _source(self, i: int) -> Key | None:
        """The box that makes a value. A bare parameter gets its box when something reads it."""
        if i in self.found.of:
            return self.key[self.found.of[i]]
        keys = self.found.weights.get(i, frozenset())
        bare = [k for k in sorted(keys) if not self._owns(k.rpartition(".")[0])]
        if not bare:
            return None
        key = ("parameter", bare[0])
        if key not in self.scene.boxes:
            title = bare[0] if not bare[0].isdigit() else "constant"
            lines = (self._size(self.ir[i]),)
            self.scene.boxes[key] = Box(key, "parameter", title, lines, band=self.band(i))
        return key

    def _outputs(self) -> None:
        for name, i in self.ir.outputs.items():
            source, node = self._source(i), self.ir[i]
            key = ("output", name)
            lines = (self._size(node),)
            last = max((b.band for b in self.scene.boxes.values()), default=0)
            self.scene.boxes[key] = Box(key, "output", name, lines, band=last, nodes=frozenset({i}))
            if source is not None:
                self.scene.edges.append(Edge(source, key, values=frozenset({i})))


def _dissolve(scene: Scene, empty: list[Key]) -> None:
    """Remove boxes and connect their sources to their targets.

    A box with several sources and several targets stays: it would become many edges.
    """
    for key in empty:
        into = [e for e in scene.edges if e.target == key]
        out = [e for e in scene.edges if e.source == key]
        if not into or not out or (len(into) > 1 and len(out) > 1):
            continue
        kept = [e for e in scene.edges if key not in (e.source, e.target)]
        known = {(e.source, e.target, e.back) for e in kept}
        for a in into:
            for b in out:
                if (a.source, b.target, b.back) not in known:
                    kept.append(
                        Edge(a.source, b.target, b.back, b.state, b.mark, b.start, a.values)
                    )
        scene.edges[:] = kept
        del scene.boxes[key]
