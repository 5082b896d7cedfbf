"""What a picture shows, before anything is placed: boxes, the edges between them, and bands."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import networkx as nx

Key = Hashable


@dataclass(frozen=True)
class Box:
    """One thing drawn. `kind` is input, output, module, math, parameter, delay, junction,
    or loop: one that a plan runs as one operation.

    `title` is what the user called it, `lines` are printed small beneath. Boxes of one `shares`
    have the same weights, hence one colour. `band` is the part of the plan it lies in, `column` the
    copy of an unrolled graph, `nodes` what it is made of in the IR.
    """

    key: Key
    kind: str
    title: str
    lines: tuple[str, ...] = ()
    shares: str = ""
    band: int = 0
    column: int = 0
    nodes: frozenset[int] = frozenset()
    twin: Key | None = None


@dataclass(frozen=True)
class Edge:
    """A value on its way from one box to another.

    A `back` edge closes a loop: layers do not follow it. `state` names the state it carries,
    `mark` is text on it, `start` says that it only gives a first value, `values` are the IR's
    nodes. Where a box stands for several calls, `leaves` and `enters` say which.
    """

    source: Key
    target: Key
    back: bool = False
    state: str = ""
    mark: str = ""
    start: bool = False
    values: frozenset[int] = frozenset()
    leaves: int = 0
    enters: int = 0


@dataclass(frozen=True)
class Band:
    """A part of the plan: boxes with this `band` lie on it. `kind` is whole or loop."""

    title: str
    kind: str
    detail: str = ""


@dataclass
class Scene:
    """Boxes by key in an order in which data flows, edges, the plan's bands, columns' headings."""

    name: str
    boxes: dict[Key, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    headings: dict[int, str] = field(default_factory=dict)

    def forward(self) -> nx.DiGraph:
        """The acyclic part: who feeds whom, closing edges apart."""
        net = nx.DiGraph()
        net.add_nodes_from(self.boxes)
        net.add_edges_from((e.source, e.target) for e in self.edges if not e.back)
        return net

    def network(self) -> nx.MultiDiGraph:
        """The whole picture as networkx has it; nodes carry `box`, edges `edge`."""
        net = nx.MultiDiGraph(name=self.name)
        for key, box in self.boxes.items():
            net.add_node(key, box=box)
        for edge in self.edges:
            net.add_edge(edge.source, edge.target, edge=edge)
        return net
