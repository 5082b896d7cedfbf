"""Horizontal positions: columns, detours of edges, and the ports of boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphnn.pictures.layout.columns import WIRE, Column, Spot, column
from graphnn.pictures.layout.edges import TRACK, Interval, corridor, spread
from graphnn.pictures.scenes.scene import Key, Scene

PORT = 11.0


@dataclass(frozen=True)
class Detour:
    """An edge that runs around boxes: the gaps it leaves and enters by, and the x between."""

    edge: int
    leaves: int
    enters: int
    x: float


class Horizontal:
    """Horizontal positions: `x` of boxes and spots, `out` and `into` of the ends of edges."""

    def __init__(
        self, scene: Scene, row: dict[Key, int], size: dict[Key, tuple[float, float]], engine: Any
    ):
        self.scene, self.row, self.size = scene, row, size
        self.columns = self._columns(engine)
        self.x: dict[Spot, float] = {}
        self.chains: dict[tuple[Key, Key], list[Spot]] = {}
        for c in self.columns.values():
            self.x.update(c.x)
            self.chains.update(c.chains)
        self.detours = self._detours()
        self.around = {d.edge: d.x for d in self.detours}
        self.out = [0.0] * len(scene.edges)
        self.into = [0.0] * len(scene.edges)
        for k in scene.boxes:
            self._leave(k)
        for k in scene.boxes:
            self._enter(k)

    def _columns(self, engine: Any) -> dict[int, Column]:
        """Columns side by side; copies have the same arrangement."""
        found: dict[int, Column] = {}
        left, patterns = 0.0, dict[frozenset[Key], Column]()
        for n in sorted({b.column for b in self.scene.boxes.values()}):
            mine = {k: b.twin for k, b in self.scene.boxes.items() if b.column == n}
            copies = frozenset(twin for twin in mine.values() if twin is not None)
            if len(copies) == len(mine) and copies in patterns:
                key = {twin: k for k, twin in mine.items()}
                made = patterns[copies].renamed(key)
            else:
                made = self._column(mine, engine)
            if len(copies) == len(mine) and copies not in patterns:
                patterns[copies] = made.renamed(mine)
            made = made.moved(left - made.left)
            crossing = sum((e.source in mine) != (e.target in mine) for e in self.scene.edges)
            left = made.right + 30.0 + (TRACK + 2) * crossing
            found[n] = made
        return found

    def _column(self, mine: Mapping[Key, Key | None], engine: Any) -> Column:
        inner = [e for e in self.scene.edges if e.source in mine and e.target in mine]
        pairs = list(dict.fromkeys((e.source, e.target) for e in inner if not e.back))
        loops = [(e.source, e.target) for e in inner if e.back]
        row = {k: r for k, r in self.row.items() if k in mine}
        width = {k: self.size[k][0] for k in row}
        return column(pairs, loops, self._onward(mine), row, width, engine)

    def _onward(self, mine: Mapping[Key, Key | None]) -> list[tuple[Key, Key]]:
        """Edges between copies as pairs (reader, read) of boxes in one column."""
        key = {twin: k for k, twin in mine.items() if twin is not None}
        found = []
        for e in self.scene.edges:
            a, b = self.scene.boxes[e.source], self.scene.boxes[e.target]
            if a.twin in key and b.twin in key and a.column != b.column:
                ends = (key[b.twin], key[a.twin])
                found.append(ends if a.column < b.column else ends[::-1])
        return list(dict.fromkeys(found))

    def _detours(self) -> list[Detour]:
        """Edges that lead back or cross columns, short ones first, so that these run nearest."""
        led = [
            (abs(self.row[e.source] - self.row[e.target]), n)
            for n, e in enumerate(self.scene.edges)
            if e.back or (e.source, e.target) not in self.chains
        ]
        found: list[Detour] = []
        for _, n in sorted(led):
            edge = self.scene.edges[n]
            leaves, enters = self.row[edge.source], self.row[edge.target] - 1
            taken = self._taken(leaves, enters, found, 15.0 if edge.mark else 9.0)
            x = corridor(taken, self.x[edge.source], self.x[edge.target])
            found.append(Detour(n, leaves, enters, x))
        return found

    def _taken(self, leaves: int, enters: int, others: list[Detour], room: float) -> list[Interval]:
        """The intervals that block a line from one gap to another, with a margin around boxes."""
        low, high = min(leaves, enters), max(leaves, enters)
        found: list[Interval] = []
        for c in self.columns.values():
            for s in (s for r in range(low + 1, high + 1) for s in c.rows.get(r, ())):
                half = self.size[s][0] / 2 + room if s in self.size else WIRE / 2 + 3.0
                found.append((self.x[s] - half, self.x[s] + half))
        for d in others:
            if min(d.leaves, d.enters) <= high and low <= max(d.leaves, d.enters):
                found.append((d.x - TRACK - 1, d.x + TRACK + 1))
        return found

    def _leave(self, k: Key) -> None:
        """Set where edges leave a box: one port per value."""
        values: dict[Any, list[int]] = {}
        for n, e in enumerate(self.scene.edges):
            if e.source == k:
                values.setdefault((e.leaves, e.values), []).append(n)
        wishes = []
        for edges in values.values():
            far = [self._next(n) for n in edges]
            wishes.append(sum(far) / len(far) if len(values) > 1 else self.x[k])
        for edges, x in zip(values.values(), self._ports(k, wishes)):
            for n in edges:
                self.out[n] = x

    def _next(self, n: int) -> float:
        edge = self.scene.edges[n]
        chain = self.chains.get((edge.source, edge.target), ())
        return self.around[n] if n in self.around else self.x[chain[0] if chain else edge.target]

    def _enter(self, k: Key) -> None:
        """Set where edges enter a box: one port per edge, ordered by where the edges come from."""
        edges = [n for n, e in enumerate(self.scene.edges) if e.target == k]
        wishes = []
        for n in edges:
            chain = self.chains.get((self.scene.edges[n].source, k), ())
            came = self.x[chain[-1]] if chain else self.out[n]
            wishes.append(self.around.get(n, came))
        for n, x in zip(edges, self._ports(k, wishes)):
            self.into[n] = x

    def _ports(self, k: Key, wishes: list[float]) -> list[float]:
        half = self.size[k][0] / 2 - 8.0
        return spread(wishes, self.x[k] - half, self.x[k] + half, PORT)
