"""beside: loops that do not wait for each other, such as both directions of a layer, in pairs."""

from __future__ import annotations

from collections.abc import Iterable

from graphnn.ir.graph import IR
from graphnn.planner.core.regions import Loop, Region, Whole

Part = Whole | list[Loop]


def beside(ir: IR, regions: Iterable[Region]) -> list[Part]:
    """The regions in an order in which independent loops over one axis are next to each other."""
    left = list(regions)
    parts: list[Part] = []
    while left:
        region = left.pop(0)
        if isinstance(region, Whole):
            parts.append(region)
            continue
        loop = region
        found = _mate(ir, loop, left)
        if found is None:
            parts.append([loop])
            continue
        k, mate, ready, waiting = found
        parts += [Whole(ready)] if ready else []
        parts.append([loop, mate])
        del left[: k + 1]
        left[:0] = [Whole(waiting)] if waiting else []
    return parts


def joined(loops: list[Loop]) -> Loop:
    """Loops as one, for what needs their nodes together."""
    if len(loops) == 1:
        return loops[0]
    nodes = [i for loop in loops for i in loop.nodes]
    return Loop(loops[0].axis, False, nodes, [i for loop in loops for i in loop.states])


Mate = tuple[int, Loop, list[int], list[int]]


def _mate(ir: IR, loop: Loop, left: list[Region]) -> Mate | None:
    """The next loop, if it does not need this one, and its place; between them, what is ready."""
    after = set(loop.nodes)
    ready: list[int] = []
    waiting: list[int] = []
    for k, region in enumerate(left):
        if isinstance(region, Whole):
            for i in region.nodes:
                if after & reads(ir, i):
                    after.add(i)
                    waiting.append(i)
                else:
                    ready.append(i)
            continue
        needs = any(after & reads(ir, i) for i in region.nodes)
        fits = region.axis == loop.axis and rows(ir, region) == rows(ir, loop)
        simple = region.stop is None and loop.stop is None
        return (k, region, ready, waiting) if fits and simple and not needs else None
    return None


def reads(ir: IR, i: int) -> set[int]:
    """What a node reads, a delay what closes it."""
    return {*ir[i].inputs, *([ir.closings[i]] if i in ir.closings else [])}


def rows(ir: IR, loop: Loop) -> frozenset[str]:
    """The axes that a loop's values vary over besides its own."""
    return frozenset().union(*(ir[i].axes for i in loop.nodes)) - {loop.axis}
