"""places: in which loop, and in which part of a plan, each node of a graph lies."""

from __future__ import annotations

from graphnn.ir.graph import IR
from graphnn.planner.core.regions import Loop, loops, partition


def nests(ir: IR) -> dict[int, tuple[int, ...]]:
    """The loops around each node that is in one, the outermost first, each by its first state."""
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
