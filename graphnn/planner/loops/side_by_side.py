"""Parallel loops: independent loops over one axis, such as both directions of a layer, in pairs.

The two loops of a pair may run in one launch.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphnn.ir.graph import IR
from graphnn.planner.core.regions import Loop, Region, Whole

Part = Whole | list[Loop]


def pair_loops(ir: IR, regions: Iterable[Region]) -> list[Part]:
    """The regions in order, with independent loops over one axis paired."""
    left = list(regions)
    parts: list[Part] = []
    while left:
        region = left.pop(0)
        if isinstance(region, Whole):
            parts.append(region)
            continue
        loop = region
        found = _partner(ir, loop, left)
        if found is None:
            parts.append([loop])
            continue
        k, partner, ready, waiting = found
        parts += [Whole(ready)] if ready else []
        parts.append([loop, partner])
        del left[: k + 1]
        left[:0] = [Whole(waiting)] if waiting else []
    return parts


def as_one(loops: list[Loop]) -> Loop:
    """Several loops as one `Loop` that has all of their nodes."""
    if len(loops) == 1:
        return loops[0]
    nodes = [i for loop in loops for i in loop.nodes]
    return Loop(loops[0].axis, False, nodes, [i for loop in loops for i in loop.states])


Partner = tuple[int, Loop, list[int], list[int]]


def _partner(ir: IR, loop: Loop, left: list[Region]) -> Partner | None:
    """The next loop that may run next to this one, or None.

    Returns its index and itself, and the nodes between the two that can run before both, and those
    that have to wait for the first.
    """
    after = set(loop.nodes)
    ready: list[int] = []
    waiting: list[int] = []
    for k, region in enumerate(left):
        if isinstance(region, Whole):
            for i in region.nodes:
                if after & operands_of(ir, i):
                    after.add(i)
                    waiting.append(i)
                else:
                    ready.append(i)
            continue
        needs = any(after & operands_of(ir, i) for i in region.nodes)
        fits = region.axis == loop.axis and row_axes(ir, region) == row_axes(ir, loop)
        simple = region.stop is None and loop.stop is None
        return (k, region, ready, waiting) if fits and simple and not needs else None
    return None


def operands_of(ir: IR, i: int) -> set[int]:
    """The nodes that a node reads; a delay also reads the node that closes it."""
    return {*ir[i].inputs, *([ir.closings[i]] if i in ir.closings else [])}


def row_axes(ir: IR, loop: Loop) -> frozenset[str]:
    """The axes that a loop's values vary over, without the loop's own."""
    return frozenset().union(*(ir[i].axes for i in loop.nodes)) - {loop.axis}
