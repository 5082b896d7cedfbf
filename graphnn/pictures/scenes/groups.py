"""Groups the nodes of a graph: one group per box.

A module call is one group. Arithmetic is grouped by the line of source code. Weights and constants
form no groups of their own: they belong to the nodes that read them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import owner
from graphnn.ops.registry import OPS

UNSEEN = frozenset({"const", "size", "length", "given"})
ALONE = frozenset({"input", "delay", "index", "random"})
LOOPS = frozenset({"aten", "scan"})
JOINS = frozenset({"view", "join"})


@dataclass(eq=False)
class Group:
    """Nodes drawn as one box.

    `modules` are the paths of the modules that the nodes are a call of. There are several if
    horizontal fusion made one matmul of their matmuls.
    """

    kind: str
    nodes: list[int] = field(default_factory=list)
    modules: tuple[str, ...] = ()
    place: Hashable = None
    read: set[int] = field(default_factory=set)


class Grouping:
    """The groups of a graph.

    `owns(path)` says whether a path belongs to a module. Arithmetic with different `place` gets
    different groups; if `separate`, so do the parts of one module call. `of` maps each node that
    is drawn to its group; `weights` maps each node that is made of parameters alone to them.
    """

    def __init__(
        self,
        ir: IR,
        owns: Callable[[str], bool],
        place: Callable[[int], Hashable],
        separate: bool = False,
    ):
        self.ir, self.owns, self.place, self.separate = ir, owns, place, separate
        self.of: dict[int, Group] = {}
        self.weights: dict[int, frozenset[str]] = {}
        self._open: dict[tuple[tuple[str, ...], Hashable], Group] = {}
        for node in ir:
            self._weigh(node)
            if node.op not in UNSEEN and node.id not in self.weights:
                self._enter(node)
        self.groups = list(dict.fromkeys(self.of.values()))

    def _weigh(self, node: Node) -> None:
        """Record a parameter, or a node that is computed from parameters and constants alone."""
        if node.op in ("parameter", "tensor"):
            self.weights[node.id] = frozenset({str(node.attrs["key"])})
        elif node.op != "delay" and node.inputs:
            given = [i for i in node.inputs if self.ir[i].op not in UNSEEN]
            if all(i in self.weights for i in given):
                self.weights[node.id] = frozenset().union(*(self.weights[i] for i in given))

    def modules_of(self, node: Node) -> tuple[str, ...]:
        """The paths of the modules whose call contains the node."""
        keys = {k.rpartition(".")[0] for i in node.inputs for k in self.weights.get(i, ())}
        owners = tuple(sorted(k for k in keys if self.owns(k)))
        path = re.sub(r"\[\d+\]$", "", node.name)
        path = path if self.owns(path) else owner(path)
        return (path,) if len(owners) < 2 and path and self.owns(path) else owners

    def _enter(self, node: Node) -> None:
        if node.op in ALONE:
            self.of[node.id] = Group(node.op, [node.id], (), self.place(node.id))
            return
        if node.op in LOOPS:
            self.of[node.id] = Group("loop", [node.id], (), self.place(node.id))
            return
        if node.op == "pick" and (made := self.of.get(node.inputs[0])) is not None:
            self._join(made, node)
            return
        modules = self.modules_of(node)
        if merged := self._merged(node, modules):
            modules = merged.modules
        if modules and OPS[node.op].family in JOINS:
            # a slice or join before a call, or across several calls, is not part of the call
            call = self._open.get(self._call_key(node, modules))
            inputs = [self.of[i] for i in node.inputs if i in self.of]
            modules = modules if call and all(g is call for g in inputs) else ()
        if modules:
            self._call(node, modules)
        else:
            self._line(node)

    def _merged(self, node: Node, modules: tuple[str, ...]) -> Group | None:
        """The fused call of several modules that a node of one of them continues."""
        near = (self.of[i] for i in node.inputs if i in self.of)
        calls = (g for g in near if len(g.modules) > 1 and set(modules) <= set(g.modules))
        return next((g for g in calls if modules and g.place == self.place(node.id)), None)

    def _call_key(self, node: Node, modules: tuple[str, ...]) -> tuple[tuple[str, ...], Hashable]:
        return (modules, self.place(node.id) if self.separate else None)

    def _call(self, node: Node, modules: tuple[str, ...]) -> None:
        key = self._call_key(node, modules)
        reads = {i for i in node.inputs if i in self.weights}
        group = self._open.get(key)
        # reading a weight again begins a second call
        if group is None or reads & group.read or self._cycle(group, node):
            group = self._open[key] = Group("module", [], *key)
        group.read |= reads
        self._join(group, node)

    def _line(self, node: Node) -> None:
        place = self.place(node.id)
        near = [self.of[i] for i in node.inputs if i in self.of]
        fits = [
            g
            for g in dict.fromkeys(near)
            if g.kind == "math" and g.place == place and self._same_line(g, node)
        ]
        chosen: Group | None = None
        for group in fits:
            if chosen is None and not self._cycle(group, node):
                chosen = group
                self._join(group, node)
            elif chosen is not None and not self._cycle(chosen, *(self.ir[i] for i in group.nodes)):
                for i in group.nodes:
                    self.of[i] = chosen
                chosen.nodes = sorted({*chosen.nodes, *group.nodes})
        if chosen is None:
            self._join(Group("math", [], (), place), node)

    def _same_line(self, group: Group, node: Node) -> bool:
        last = self.ir[group.nodes[-1]]
        return last.site == node.site or self.ir[group.nodes[0]].site == node.site

    def _join(self, group: Group, node: Node) -> None:
        group.nodes.append(node.id)
        self.of[node.id] = group

    def _cycle(self, group: Group, *nodes: Node) -> bool:
        """Whether adding the nodes to the group would make a cycle through other groups."""
        own = {*group.nodes, *(n.id for n in nodes)}
        seen: set[int] = set()
        stack = [i for j in own for i in self.ir[j].inputs if i not in own]
        while stack:
            i = stack.pop()
            if i in seen or i not in self.of:
                continue
            seen.add(i)
            mates = self.of[i].nodes
            if own & set(mates):
                return True
            stack += [k for j in mates for k in self.ir[j].inputs if k not in seen]
            seen.update(mates)
        return False

    def outside(self) -> dict[Group, list[int]]:
        """For each group, the nodes that other groups or outputs read."""
        found: dict[Group, list[int]] = {g: [] for g in self.groups}
        for i, readers in self.ir.users().items():
            group = self.of.get(i)
            named = i in self.ir.outputs.values()
            if group and (named or any(self.of.get(u) not in (group, None) for u in readers)):
                found[group].append(i)
        return found

    def only_views(self, group: Group) -> bool:
        """Whether a group only slices, joins and reshapes."""
        return group.kind == "math" and all(
            OPS[self.ir[i].op].family in JOINS or self.ir[i].op in ("pick", "cast")
            for i in group.nodes
        )
