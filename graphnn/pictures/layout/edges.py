"""Routes of edges. Edges that close loops run between boxes, never through them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Point = tuple[float, float]
Interval = tuple[float, float]
TRACK = 7.0
BEND = 6.0


@dataclass(frozen=True)
class Stroke:
    """One piece of a route: a line to one point, or a cubic curve with three points."""

    points: tuple[Point, ...]


@dataclass
class Route:
    """An edge as drawn: its start and its strokes."""

    begin: Point
    strokes: list[Stroke]

    @property
    def end(self) -> Point:
        return self.strokes[-1].points[-1] if self.strokes else self.begin

    def samples(self, count: int = 16) -> list[Point]:
        """Points along the route, close together."""
        found, here = [self.begin], self.begin
        for stroke in self.strokes:
            for k in range(1, count + 1):
                found.append(_at(here, stroke.points, k / count))
            here = stroke.points[-1]
        return found


def _at(start: Point, points: tuple[Point, ...], t: float) -> Point:
    if len(points) == 1:
        a, b = start, points[0]
        return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t
    s = 1 - t
    weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
    way = (start, *points)
    return sum(w * p[0] for w, p in zip(weights, way)), sum(w * p[1] for w, p in zip(weights, way))


def downwards(
    begin: Point, turns: Iterable[tuple[float, float, float, float]], end: Point
) -> Route:
    """A route downwards: straight past boxes, with a bend in each gap (x, top, x', bottom)."""
    route = Route(begin, [])
    for x, top, across, bottom in turns:
        route.strokes.append(Stroke(((x, top),)))
        if abs(across - x) < 0.5:
            route.strokes.append(Stroke(((across, bottom),)))
        else:
            middle = (top + bottom) / 2
            route.strokes.append(Stroke(((x, middle), (across, middle), (across, bottom))))
    route.strokes.append(Stroke((end,)))
    return route


def cornered(points: list[Point]) -> Route:
    """A route of horizontal and vertical lines with rounded corners."""
    kept = [points[0]]
    for p in points[1:]:
        if abs(p[0] - kept[-1][0]) > 0.01 or abs(p[1] - kept[-1][1]) > 0.01:
            kept.append(p)
    route = Route(kept[0], [])
    for a, b, c in zip(kept, kept[1:], kept[2:]):
        size = min(BEND, _far(a, b) / 2, _far(b, c) / 2)
        before, after = _towards(b, a, size), _towards(b, c, size)
        route.strokes.append(Stroke((before,)))
        route.strokes.append(Stroke((_towards(b, a, size / 3), _towards(b, c, size / 3), after)))
    route.strokes.append(Stroke((kept[-1],)))
    return route


def _far(a: Point, b: Point) -> float:
    return abs(a[0] - b[0]) + abs(a[1] - b[1])


def _towards(a: Point, b: Point, far: float) -> Point:
    whole = _far(a, b) or 1.0
    return a[0] + (b[0] - a[0]) * far / whole, a[1] + (b[1] - a[1]) * far / whole


def corridor(taken: list[Interval], begin: float, end: float) -> float:
    """The x outside of all intervals that is nearest to both ends."""
    joined: list[list[float]] = []
    for low, high in sorted(taken):
        if joined and low <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], high)
        else:
            joined.append([low, high])
    offered = [begin, end, *(x for pair in joined for x in pair)]
    free = [x for x in offered if not any(low < x < high for low, high in joined)]
    return min(free, key=lambda x: (abs(x - begin) + abs(x - end), x))


def tracks(runs: list[Interval]) -> list[int]:
    """A track for each run, so that runs on one track do not overlap; short runs come first."""
    filled: list[list[Interval]] = []
    found = [0] * len(runs)
    for n in sorted(range(len(runs)), key=lambda n: runs[n][1] - runs[n][0]):
        low, high = runs[n]
        free = (
            k
            for k, track in enumerate(filled)
            if all(high + TRACK < a or b + TRACK < low for a, b in track)
        )
        k = next(free, len(filled))
        if k == len(filled):
            filled.append([])
        filled[k].append((low, high))
        found[n] = k
    return found


def spread(wishes: list[float], low: float, high: float, apart: float) -> list[float]:
    """Positions near the wishes, in order and within bounds, at least `apart` from each other."""
    count = len(wishes)
    apart = min(apart, (high - low) / (count - 1)) if count > 1 else apart
    order = sorted(range(count), key=lambda n: wishes[n])
    positions = [min(max(wishes[n], low), high) for n in order]
    for k in range(1, count):
        positions[k] = max(positions[k], positions[k - 1] + apart)
    over = max(0.0, (positions[-1] - high) if positions else 0.0)
    if over:
        positions[-1] = high
        for k in range(count - 2, -1, -1):
            positions[k] = min(positions[k], positions[k + 1] - apart)
    found = [0.0] * count
    for n, x in zip(order, positions):
        found[n] = x
    return found
