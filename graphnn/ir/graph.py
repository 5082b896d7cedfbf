"""The intermediate representation: primitive operations on values with named axes.

A node computes one value: the `shape` and `dtype` of one example at one position, and the `axes`
that it varies over. `"batch"` is an axis like any other. `closings` close loops: a `delay` node
reads, `steps` positions later along its axis, the node that closes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from graphnn.ir import printer
from graphnn.ir.source_location import Site

if TYPE_CHECKING:
    import networkx as nx

BATCH = "batch"


@dataclass(slots=True, eq=False)
class Node:
    """One primitive operation and the value that it computes."""

    id: int
    op: str
    inputs: tuple[int, ...]
    attrs: dict[str, Any]
    shape: tuple[int, ...]
    axes: frozenset[str]
    dtype: torch.dtype
    name: str = ""
    site: Site | None = None

    @property
    def label(self) -> str:
        """The name of this node in errors and plans."""
        return self.name or f"{self.op}_{self.id}"


@dataclass(slots=True)
class Axis:
    """A named axis.

    `length` is None if inputs determine it; `copy_of` names the axis that this one renames.
    """

    name: str
    length: int | None = None
    copy_of: str | None = None
    site: Site | None = None


@dataclass(repr=False)
class IR:
    """A graph of nodes.

    `nodes` is in topological order, if edges to delays from their closings are left out. `until`
    holds the stop condition of axes that end by themselves, `here` the user's name and line for the
    nodes being made.
    """

    name: str = "graph"
    nodes: dict[int, Node] = field(default_factory=dict)
    closings: dict[int, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    axes: dict[str, Axis] = field(default_factory=lambda: {BATCH: Axis(BATCH)})
    until: dict[str, int] = field(default_factory=dict)
    floating: torch.dtype = torch.float32
    counter: int = 0
    here: tuple[str, Site | None] = ("", None)
    # results of analyses, each with the nodes that the graph had then
    known: dict[str, tuple[Any, Any]] = field(default_factory=dict, compare=False, repr=False)

    def __str__(self) -> str:
        """The graph in SSA form, one line per node: see `graphnn.ir.printer`."""
        return printer.text(self)

    def __repr__(self) -> str:
        return printer.summary(self)

    def insert(self, node: Node) -> int:
        """Add a node whose shape, axes and dtype are known; returns its id."""
        self.nodes[node.id] = node
        self.counter = max(self.counter, node.id + 1)
        return node.id

    def fresh(self) -> int:
        """A new id."""
        self.counter += 1
        return self.counter - 1

    def __getitem__(self, key: int) -> Node:
        return self.nodes[key]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def operands(self, node: Node) -> list[Node]:
        """The nodes that a node reads at its own position, in order."""
        return [self.nodes[i] for i in node.inputs]

    def users(self) -> dict[int, list[int]]:
        """For each node, the ids of its readers; a delay reads the node that closes it."""
        found: dict[int, list[int]] = {i: [] for i in self.nodes}
        for node in self:
            for i in node.inputs:
                found[i].append(node.id)
        for delay, source in self.closings.items():
            found[source].append(delay)
        return found

    def layout(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Axes in memory order, which is the order of `self.axes`."""
        chosen = frozenset(axes)
        return tuple(a for a in self.axes if a in chosen)

    def network(self) -> nx.MultiDiGraph:
        """The graph in networkx; edges to delays have `delay`, the steps that they cross."""
        import networkx as nx  # imported late: importing it needs 0.2 s

        net = nx.MultiDiGraph(name=self.name)
        for node in self:
            net.add_node(node.id, node=node)
        for node in self:
            for position, i in enumerate(node.inputs):
                net.add_edge(i, node.id, position=position, delay=0)
        for delay, source in self.closings.items():
            net.add_edge(source, delay, position=0, delay=self[delay].attrs["steps"])
        return net

    def copy(self) -> IR:
        """An independent copy. It shares nodes, which are never changed in place."""
        return replace(
            self,
            nodes=dict(self.nodes),
            closings=dict(self.closings),
            outputs=dict(self.outputs),
            axes=dict(self.axes),
            until=dict(self.until),
            known=dict(self.known),
        )

    def empty(self) -> IR:
        """A graph without nodes, of the same name and axes; new ids continue those of this one."""
        return IR(self.name, axes=dict(self.axes), floating=self.floating, counter=self.counter)

    def alone(self, delay: int) -> bool:
        """Whether a delay of several steps has one initial value for all of them."""
        return len(self[delay].inputs) == 1
