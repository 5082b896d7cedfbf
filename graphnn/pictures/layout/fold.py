"""Folds a long thin picture into several columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from graphnn.pictures.scenes.scene import Key, Scene

SLENDER = 4.5
ROW_GAP = 38.0
FEW = 4


def fold(
    scene: Scene, row: dict[Key, int], size: Mapping[Key, tuple[float, float]]
) -> tuple[Scene, dict[Key, int]]:
    """The scene and its rows, split into several columns if it is much higher than wide.

    The split is made where few edges pass, or not at all. Plans and unrolled graphs stay as they
    are, because their bands and columns carry meaning.
    """
    if scene.bands or scene.headings or not row:
        return scene, row
    count = max(row.values()) + 1
    width, height = _extent(row, size, count)
    pieces = round(math.sqrt(height / width)) if height > SLENDER * width else 1
    if pieces < 2:
        return scene, row
    cuts = _cuts(scene, row, count, pieces)
    if any(_passing(scene, row, r) > FEW for r in cuts):
        return scene, row
    starts = [0, *cuts]
    piece = {k: sum(r >= cut for cut in cuts) for k, r in row.items()}
    boxes = {k: replace(b, column=piece[k]) for k, b in scene.boxes.items()}
    folded = replace(scene, boxes=boxes)
    return folded, {k: r - starts[piece[k]] for k, r in row.items()}


def _extent(
    row: dict[Key, int], size: Mapping[Key, tuple[float, float]], count: int
) -> tuple[float, float]:
    widths, heights = [0.0] * count, [0.0] * count
    for k, r in row.items():
        widths[r] += size[k][0] + 22.0
        heights[r] = max(heights[r], size[k][1])
    return max(widths), sum(heights) + ROW_GAP * count


def _cuts(scene: Scene, row: dict[Key, int], count: int, pieces: int) -> list[int]:
    """The first rows of the new columns: of nearly equal height, where the fewest edges pass."""
    found = []
    slack = count // (3 * pieces)
    for n in range(1, pieces):
        even = round(n * count / pieces)
        near = range(max(1, even - slack), min(count, even + slack + 1))
        found.append(min(near, key=lambda r: (_passing(scene, row, r), abs(r - even))))
    return sorted(set(found))


def _passing(scene: Scene, row: dict[Key, int], r: int) -> int:
    return sum(
        min(row[e.source], row[e.target]) < r <= max(row[e.source], row[e.target])
        for e in scene.edges
    )
