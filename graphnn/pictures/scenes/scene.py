"""The contents of a picture, without positions: boxes, edges between them, and bands."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import networkx as nx


Key = Hashable


@dataclass(frozen=True)
class Box:
    """One box of a picture.

    `kind` is input, output, module, math, parameter, delay, junction, or loop (a loop that the
    plan runs as one operation). `title` is the user's name for it; `lines` are printed in small
    type beneath. Boxes with equal `shares` have the same weights and so the same colour. `band` is
    the part of the plan, `column` the copy in an unrolled graph, `nodes` the nodes of the IR.
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
    """A value that flows from one box to another.

    A `back` edge closes a loop, so rows do not follow it. `state` names the state that the edge
    carries, `mark` is the text on it, `start` marks an edge that gives only an initial value, and
    `values` are the nodes of the IR. If a box stands for several calls, `leaves` and `enters` are
    the numbers of the calls.
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
    """A part of the plan, drawn behind the boxes with its number. `kind` is whole or loop."""

    title: str
    kind: str
    detail: str = ""


@dataclass
class Scene:
    """Boxes by key in topological order, edges, bands of the plan, and headings of columns."""

    name: str
    boxes: dict[Key, Box] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    headings: dict[int, str] = field(default_factory=dict)

    def forward(self) -> nx.DiGraph:
        """The graph of all edges that do not close a loop; it is acyclic."""
        import networkx as nx  # imported late: it takes 0.2 s

        net = nx.DiGraph()
        net.add_nodes_from(self.boxes)
        net.add_edges_from((e.source, e.target) for e in self.edges if not e.back)
        return net

    def network(self) -> nx.MultiDiGraph:
        """The whole picture as a networkx graph; nodes carry `box`, edges carry `edge`."""
        import networkx as nx  # imported late: it takes 0.2 s

        net = nx.MultiDiGraph(name=self.name)
        for key, box in self.boxes.items():
            net.add_node(key, box=box)
        for edge in self.edges:
            net.add_edge(edge.source, edge.target, edge=edge)
        return net
