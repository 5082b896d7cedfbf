"""Arranges the boxes of one column within their rows, with few crossings of edges.

igraph orders each row (the Sugiyama method). Positions follow from the widths: each box moves
towards its neighbours as far as the boxes next to it allow.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphnn.pictures.scenes.scene import Key

Spot = Hashable
GAP = 22.0
WIRE = 9.0
SWEEPS = 60
TRIALS, MANY = 12, 400


@dataclass
class Column:
    """Horizontal positions in one column.

    `x` maps boxes, and the spots at which long edges cross a row, to their middles. `chains` maps
    an edge (source, target) to the spots between. `rows` lists the contents of each row from the
    left. `left` and `right` are the bounds of the column.
    """

    x: dict[Spot, float] = field(default_factory=dict)
    chains: dict[tuple[Key, Key], list[Spot]] = field(default_factory=dict)
    rows: dict[int, list[Spot]] = field(default_factory=dict)
    left: float = 0.0
    right: float = 0.0

    def renamed(self, key: Mapping[Key, Key | None]) -> Column:
        """The same arrangement for other boxes."""

        def spot(s: Spot) -> Spot:
            return ("via", key[s[1]], key[s[2]], s[3]) if _wire(s) else key[s]  # type: ignore[index]

        x = {spot(s): at for s, at in self.x.items()}
        chains = {(key[a], key[b]): [spot(s) for s in way] for (a, b), way in self.chains.items()}
        rows = {r: [spot(s) for s in row] for r, row in self.rows.items()}
        return Column(x, chains, rows, self.left, self.right)

    def moved(self, far: float) -> Column:
        """The column, shifted to the right by `far`."""
        x = {s: at + far for s, at in self.x.items()}
        return Column(x, self.chains, self.rows, self.left + far, self.right + far)


def column(
    pairs: list[tuple[Key, Key]],
    loops: list[tuple[Key, Key]],
    onward: list[tuple[Key, Key]],
    row: dict[Key, int],
    width: dict[Key, float],
    engine: Any,
) -> Column:
    """Arrange the boxes in `row`, connected by the edges `pairs` and by `loops`, which lead back.

    `onward` lists pairs (reader, read) in which the reader's copy stands in a column further right.
    `engine` is the module igraph. It is run from several starting orders; the best result is kept.
    """
    at: dict[Spot, int] = dict(row)
    steps: list[tuple[Spot, Spot]] = []
    chains: dict[tuple[Key, Key], list[Spot]] = {}
    for a, b in pairs:
        spots: list[Spot] = [("via", a, b, r) for r in range(row[a] + 1, row[b])]
        at.update(zip(spots, range(row[a] + 1, row[b])))
        chains[a, b] = spots
        steps += zip([a, *spots], [*spots, b])
    size = {s: width.get(s, WIRE) for s in at}
    best: Column | None = None
    least = math.inf
    for rows in _orders(at, steps, engine):
        x = _placed(rows, steps, size)
        cost = _cost(rows, steps, loops, x) + sum(x[a] - x[b] for a, b in onward)
        if cost < least:
            best, least = Column(x, chains, rows), cost
    assert best is not None
    best.left = min((best.x[s] - size[s] / 2 for s in at), default=0.0)
    best.right = max((best.x[s] + size[s] / 2 for s in at), default=0.0)
    return best


def _orders(
    at: dict[Spot, int], steps: list[tuple[Spot, Spot]], engine: Any
) -> Iterator[dict[int, list[Spot]]]:
    """Rows in the orders that igraph finds from several starting orders; deterministic."""
    chance = random.Random(0)
    spots = list(at)
    seen: set[Any] = set()
    for _ in range(1 + TRIALS * (len(at) < MANY)):
        number = {s: n for n, s in enumerate(spots)}
        ends = [(number[a], number[b]) for a, b in steps]
        graph = engine.Graph(n=len(spots), edges=ends, directed=True)
        layout = graph.layout_sugiyama(layers=[at[s] for s in spots], maxiter=200)
        rows: dict[int, list[Spot]] = {}
        for s in sorted(spots, key=lambda s: (at[s], layout[number[s]][0])):
            rows.setdefault(at[s], []).append(s)
        found = tuple(tuple(row) for row in rows.values())
        if found not in seen:
            seen.add(found)
            yield rows
            yield {r: row[::-1] for r, row in rows.items()}
        chance.shuffle(spots)


def _cost(
    rows: dict[int, list[Spot]],
    steps: list[tuple[Spot, Spot]],
    loops: list[tuple[Key, Key]],
    x: dict[Spot, float],
) -> float:
    """The cost of an arrangement: crossings, and the horizontal length of edges."""
    place = {s: (r, n) for r, row in rows.items() for n, s in enumerate(row)}
    gaps: dict[int, list[tuple[int, int]]] = {}
    for a, b in steps:
        gaps.setdefault(place[a][0], []).append((place[a][1], place[b][1]))
    crossings = sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0
        for gap in gaps.values()
        for a, b in itertools.combinations(gap, 2)
    )
    far = sum(abs(x[a] - x[b]) for a, b in [*steps, *loops])
    return 60.0 * crossings + far


def _placed(
    rows: dict[int, list[Spot]], steps: list[tuple[Spot, Spot]], size: dict[Spot, float]
) -> dict[Spot, float]:
    near: dict[Spot, list[Spot]] = {s: [] for s in size}
    for a, b in steps:
        near[a].append(b)
        near[b].append(a)
    x: dict[Spot, float] = {}
    offsets = {r: _offsets(row, size) for r, row in rows.items()}
    for r, row in rows.items():
        x.update(_separated(row, offsets[r], [0.0] * len(row), [1.0] * len(row)))
    edges: dict[Any, list[Spot]] = {}
    for s in size:
        if _wire(s):
            edges.setdefault(s[1:3], []).append(s)  # type: ignore[index]
    edge: dict[Spot, Any] = {s: e for e, spots in edges.items() for s in spots}
    pull = {
        r: [6.0 if s in edge else 1.0 + len(near[s]) / 4 for s in row] for r, row in rows.items()
    }
    order = sorted(rows)
    for sweep in range(SWEEPS):
        straight = {e: sum(x[s] for s in spots) / len(spots) for e, spots in edges.items()}
        for r in order if sweep % 2 == 0 else reversed(order):
            wish = [straight[edge[s]] if s in edge else _wish(s, near[s], x) for s in rows[r]]
            x.update(_separated(rows[r], offsets[r], wish, pull[r]))
    return x


def _wire(s: Spot) -> bool:
    return isinstance(s, tuple) and len(s) == 4 and s[0] == "via"


def _wish(s: Spot, near: list[Spot], x: dict[Spot, float]) -> float:
    """The preferred position of a box: the mean of its neighbours."""
    return sum(x[n] for n in near) / len(near) if near else x[s]


def _offsets(row: list[Spot], size: dict[Spot, float]) -> list[float]:
    """The least distance of each member of a row from the first."""
    offsets = [0.0]
    for a, b in itertools.pairwise(row):
        gap = WIRE / 2 if _wire(a) and _wire(b) else GAP if not _wire(a) and not _wire(b) else 12.0
        offsets.append(offsets[-1] + (size[a] + size[b]) / 2 + gap)
    return offsets


def _separated(
    row: list[Spot], offsets: list[float], wishes: list[float], pull: list[float]
) -> dict[Spot, float]:
    """The positions nearest to the wishes in which nothing overlaps (isotonic regression)."""
    blocks: list[list[float]] = []
    for wish, offset, weight in zip(wishes, offsets, pull):
        blocks.append([wish - offset, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            m, w, n = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + m * w) / (last[1] + w)
            last[1] += w
            last[2] += n
    flat = [block[0] for block in blocks for _ in range(int(block[2]))]
    return {s: mean + offset for s, mean, offset in zip(row, flat, offsets)}
