"""down: where everything stands from top to bottom: rows, and lanes and bends in their gaps."""

from __future__ import annotations

from graphnn.pictures.layout.edges import LANE, Interval, lanes
from graphnn.pictures.layout.horizontal import Across

MARGIN = 16.0
HEAD = 20.0
ABOVE, BELOW = 9.0, 8.0


class Down:
    """`top` and `tall` of rows, the `bend` of each gap, and the heights at which edges run.

    Gap r lies beneath row r; gap -1 above all rows. `below` is where an edge led round runs after
    it left its box, `above` where before it enters.
    """

    def __init__(self, across: Across, starts: set[int], head: float):
        self.across = across
        rows = max(across.row.values(), default=-1) + 1
        self.tall = dict.fromkeys(range(rows), 0.0)
        for k, (_, height) in across.size.items():
            self.tall[across.row[k]] = max(self.tall[across.row[k]], height)
        leaving, entering = self._runs()
        low = {r: lanes([run for _, run in runs]) for r, runs in leaving.items()}
        high = {r: lanes([run for _, run in runs]) for r, runs in entering.items()}
        self.top: dict[int, float] = {}
        self.bend: dict[int, Interval] = {}
        self.below: dict[int, float] = {}
        self.above: dict[int, float] = {}
        y = head
        for r in range(-1, rows):
            for (n, _), lane in zip(leaving.get(r, ()), low.get(r, ())):
                self.below[n] = y + BELOW + LANE * lane
            begin = y + BELOW + LANE * (max(low.get(r, [-1])) + 1)
            # a band's rim and heading lie in the middle of the gap above it
            end = begin + self._slant(r) + (HEAD if r + 1 in starts else 0.0)
            self.bend[r] = (begin, end)
            y = end + ABOVE + LANE * (max(high.get(r, [-1])) + 1)
            for (n, _), lane in zip(entering.get(r, ()), high.get(r, ())):
                self.above[n] = y - ABOVE - LANE * lane
            if r + 1 < rows:
                self.top[r + 1] = y
                y += self.tall[r + 1]
        self.bottom = self.bend[rows - 1][0]

    def _runs(self) -> tuple[dict[int, list[tuple[int, Interval]]], ...]:
        """The level stretches of edges led round, by the gap that they lie in."""
        leaving: dict[int, list[tuple[int, Interval]]] = {}
        entering: dict[int, list[tuple[int, Interval]]] = {}
        for d in self.across.detours:
            out, into = self.across.out[d.edge], self.across.into[d.edge]
            if d.leaves == d.enters:
                leaving.setdefault(d.leaves, []).append((d.edge, _between(out, into)))
            else:
                leaving.setdefault(d.leaves, []).append((d.edge, _between(out, d.x)))
                entering.setdefault(d.enters, []).append((d.edge, _between(d.x, into)))
        return leaving, entering

    def _slant(self, r: int) -> float:
        """How high the bends of a gap are: higher where edges go far across."""
        across, widest = self.across, 0.0
        if not 0 <= r < len(self.tall) - 1:
            return 0.0
        for n, e in enumerate(across.scene.edges):
            if n in across.around:
                continue
            way = [e.source, *across.chains[e.source, e.target], e.target]
            k = r - across.row[e.source]
            if 0 <= k < len(way) - 1:
                here = across.out[n] if k == 0 else across.x[way[k]]
                there = across.into[n] if k == len(way) - 2 else across.x[way[k + 1]]
                widest = max(widest, abs(here - there))
        return 10.0 + min(50.0, 0.13 * widest)


def _between(a: float, b: float) -> Interval:
    return min(a, b), max(a, b)
