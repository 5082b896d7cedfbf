"""The loops around each node of a graph."""

from __future__ import annotations

from graphnn.ir.graph import IR
from graphnn.planner.core.regions import Loop, loops, partition


def loop_nests(ir: IR) -> dict[int, tuple[int, ...]]:
    """For each node within a loop, the loops around it, outermost first, by their first states."""
    found: dict[int, tuple[int, ...]] = {}
    for loop in loops(partition(ir)):
        _nest(loop, (), found)
    return found


def _nest(loop: Loop, around: tuple[int, ...], found: dict[int, tuple[int, ...]]) -> None:
    here = (*around, loop.states[0])
    found.update(dict.fromkeys(loop.nodes, here))
    for inner in loop.body:
        if isinstance(inner, Loop):
            _nest(inner, here, found)
