"""Vertical positions: rows, and the tracks and bends of edges in the gaps between them."""

from __future__ import annotations

from graphnn.pictures.layout.edges import TRACK, Interval, tracks
from graphnn.pictures.layout.horizontal import Horizontal

MARGIN = 16.0
HEAD = 20.0
ABOVE, BELOW = 9.0, 8.0


class Vertical:
    """Vertical positions: `top` and `tall` of each row, and the `bend` interval of each gap.

    Gap r lies below row r; gap -1 lies above all rows. For an edge with a detour, `below` is the y
    of its track after it leaves a box, and `above` the y of its track before it enters one.
    """

    def __init__(self, across: Horizontal, starts: set[int], head: float):
        self.across = across
        rows = max(across.row.values(), default=-1) + 1
        self.tall = dict.fromkeys(range(rows), 0.0)
        for k, (_, height) in across.size.items():
            self.tall[across.row[k]] = max(self.tall[across.row[k]], height)
        leaving, entering = self._runs()
        low = {r: tracks([run for _, run in runs]) for r, runs in leaving.items()}
        high = {r: tracks([run for _, run in runs]) for r, runs in entering.items()}
        self.top: dict[int, float] = {}
        self.bend: dict[int, Interval] = {}
        self.below: dict[int, float] = {}
        self.above: dict[int, float] = {}
        y = head
        for r in range(-1, rows):
            for (n, _), track in zip(leaving.get(r, ()), low.get(r, ())):
                self.below[n] = y + BELOW + TRACK * track
            begin = y + BELOW + TRACK * (max(low.get(r, [-1])) + 1)
            # the border and heading of a band lie in the middle of the gap above it
            end = begin + self._slant(r) + (HEAD if r + 1 in starts else 0.0)
            self.bend[r] = (begin, end)
            y = end + ABOVE + TRACK * (max(high.get(r, [-1])) + 1)
            for (n, _), track in zip(entering.get(r, ()), high.get(r, ())):
                self.above[n] = y - ABOVE - TRACK * track
            if r + 1 < rows:
                self.top[r + 1] = y
                y += self.tall[r + 1]
        self.bottom = self.bend[rows - 1][0]

    def _runs(self) -> tuple[dict[int, list[tuple[int, Interval]]], ...]:
        """The horizontal runs of edges with detours, by gap."""
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
        """The height of the bends in a gap: more if edges cross far."""
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
