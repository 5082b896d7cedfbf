"""Places a scene on the page: boxes in rows, routes between them, bands behind them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from graphnn.pictures.layout.edges import Point, Route, cornered, downwards
from graphnn.pictures.layout.fold import fold
from graphnn.pictures.layout.horizontal import Horizontal
from graphnn.pictures.layout.rows import rows
from graphnn.pictures.layout.vertical import HEAD, MARGIN, Vertical
from graphnn.pictures.scenes.box_size import box_size, head_width
from graphnn.pictures.scenes.scene import Band, Edge, Key, Scene


@dataclass(frozen=True)
class Rect:
    """A rectangle, given by its middle; y grows downwards."""

    x: float
    y: float
    width: float
    height: float

    def holds(self, p: Point, slack: float = 0.0) -> bool:
        """Whether a point lies inside, at least `slack` away from the border."""
        across, down = abs(p[0] - self.x), abs(p[1] - self.y)
        return across < self.width / 2 - slack and down < self.height / 2 - slack

    def meets(self, other: Rect) -> bool:
        """Whether two rectangles overlap."""
        across, down = abs(other.x - self.x), abs(other.y - self.y)
        return across < (self.width + other.width) / 2 and down < (self.height + other.height) / 2


@dataclass
class Layout:
    """A scene with positions. `routes` belong to the edges of the scene, in the same order."""

    scene: Scene
    boxes: dict[Key, Rect] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    bands: list[tuple[Band, Rect]] = field(default_factory=list)
    headings: list[tuple[str, Rect]] = field(default_factory=list)
    left: float = 0.0
    right: float = 0.0
    bottom: float = 0.0


def layout(scene: Scene, engine: Any) -> Layout:
    """Place a scene. `engine` is the module igraph, which orders the rows."""
    size = _sizes(scene)
    scene, row = fold(scene, rows(scene), size)
    across = Horizontal(scene, row, size, engine)
    rows_of = {
        n: [row[k] for k, b in scene.boxes.items() if b.band == n and b.kind != "output"]
        for n in range(len(scene.bands))
    }
    starts = {min(rows) for rows in rows_of.values() if rows}
    down = Vertical(across, starts, MARGIN + (HEAD if scene.headings else 0.0))
    made = Layout(scene)
    for k, (width, height) in size.items():
        middle = down.top[row[k]] + down.tall[row[k]] / 2
        made.boxes[k] = Rect(across.x[k], middle, width, height)
    made.routes = [_route(n, e, across, down, made) for n, e in enumerate(scene.edges)]
    _extent(made, down)
    _bands(made, rows_of, down)
    for n, text in scene.headings.items():
        c = across.columns[n]
        made.headings.append(
            (text, Rect((c.left + c.right) / 2, MARGIN + HEAD / 2, c.right - c.left, HEAD))
        )
    return made


def _sizes(scene: Scene) -> dict[Key, tuple[float, float]]:
    """Widths and heights; all copies of a box have the same size."""
    size = {k: box_size(b) for k, b in scene.boxes.items()}
    copies: dict[Key, list[tuple[float, float]]] = {}
    for k, b in scene.boxes.items():
        copies.setdefault(b.twin if b.twin is not None else ("alone", k), []).append(size[k])
    for k, b in scene.boxes.items():
        if b.twin is not None:
            widths, heights = zip(*copies[b.twin])
            size[k] = max(widths), max(heights)
    return size


def _route(n: int, edge: Edge, across: Horizontal, down: Vertical, made: Layout) -> Route:
    source, target = made.boxes[edge.source], made.boxes[edge.target]
    begin = (across.out[n], source.y + source.height / 2)
    end = (across.into[n], target.y - target.height / 2)
    if n not in across.around:
        r = across.row[edge.source]
        line = [begin[0], *(across.x[s] for s in across.chains[edge.source, edge.target]), end[0]]
        turns = [
            (a, down.bend[r + k][0], b, down.bend[r + k][1])
            for k, (a, b) in enumerate(itertools.pairwise(line))
        ]
        return downwards(begin, turns, end)
    low = down.below[n]
    if n not in down.above:
        return cornered([begin, (begin[0], low), (end[0], low), end])
    x, high = across.around[n], down.above[n]
    return cornered([begin, (begin[0], low), (x, low), (x, high), (end[0], high), end])


def _extent(made: Layout, down: Vertical) -> None:
    """Set the bounds of the page around all boxes and routes."""
    sides = [b.x + s * b.width / 2 for b in made.boxes.values() for s in (-1, 1)]
    sides += [p[0] for route in made.routes for p in route.samples(4)]
    rim = MARGIN + (10.0 if made.scene.bands else 0.0)
    left, right = min(sides, default=0.0) - rim, max(sides, default=0.0) + rim
    # the text at the head of a band needs room
    room = max(0.0, *(head_width(b) + 2 * MARGIN for b in made.scene.bands), 0.0)
    more = max(0.0, room - (right - left)) / 2
    made.left, made.right = left - more, right + more
    made.bottom = down.bottom + MARGIN


def _bands(made: Layout, rows_of: dict[int, list[int]], down: Vertical) -> None:
    width = made.right - made.left - MARGIN
    for n, band in enumerate(made.scene.bands):
        if not rows_of[n]:
            continue
        begin = down.bend[min(rows_of[n]) - 1]
        top, bottom = begin[1] - HEAD, down.bend[max(rows_of[n])][0] + 2.0
        middle = (made.left + made.right) / 2
        made.bands.append((band, Rect(middle, (top + bottom) / 2, width, bottom - top)))
