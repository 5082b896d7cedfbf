"""Barrier-aware scheduling of a cooperative kernel's step, if it has a block axis.

Between two barriers a piece of a value is processed to completion before the next one is begun,
while the loads of the following pieces are under way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

from ..ir.expression import Effect, Name
from ..ir.statement import Statement
from .list_schedule import ordered
from .reload_wide import reloaded

# loads that are under way before the first is used
AHEAD = 2


def scheduled(
    step: Sequence[Statement],
    after: Sequence[Statement],
    sizes: Mapping[Name, int],
    fresh: Callable[[str], Name],
) -> list[Statement]:
    """The statements of a step in their order, which those of `after` follow.

    `sizes` are the registers of variables, and `fresh` gives new variables.
    """
    found: list[Statement] = []
    for first, last in _stretches(step):
        outside = [*step[:first], *step[last:], *after]
        used = {name for statement in outside for name in statement.names}
        found += ordered(step[first:last], sizes, used)
    held = {name for statement in after for name in statement.names}
    return _under_way(reloaded(found, held, sizes, fresh))


def _under_way(step: Sequence[Statement]) -> list[Statement]:
    """The statements with loads ahead of their uses and of a wait for other blocks."""
    found: list[Statement] = []
    waits = 0
    for first, last in _stretches(step):
        if last > first and step[first].effect.fence:
            waits = len(found) if step[first].effect is Effect.WAIT else waits
            found += step[first:last]
            continue
        statements = _hoistable(step[first:last])
        # values that do not come from other blocks are loaded while this block waits for them
        early = [s for s in takewhile(_loads, statements) if not s.exchanged]
        found[waits:waits] = early
        found += [s for s in statements if s not in early]
    return found


def _loads(statement: Statement) -> bool:
    return statement.effect is Effect.LOAD


def _stretches(step: Sequence[Statement]) -> Iterator[tuple[int, int]]:
    """The stretches between barriers, and each statement of a barrier alone."""
    first = 0
    for k, statement in enumerate(step):
        if statement.effect.fence:
            yield first, k
            yield k, k + 1
            first = k + 1
    yield first, len(step)


def _hoistable(order: Sequence[Statement]) -> list[Statement]:
    """The statements between two barriers, each load in the place of the `AHEAD`th load before."""
    made = {name for statement in order for name in statement.targets}
    free = [k for k, s in enumerate(order) if _loads(s) and _free(order, k, made)]
    begin = dict(zip(free, [*free[:1] * AHEAD, *free]))
    places = sorted(range(len(order)), key=lambda k: (begin.get(k, k), k))
    return [order[k] for k in places]


def _free(order: Sequence[Statement], k: int, made: set[Name]) -> bool:
    """Whether a statement reads nothing that is `made` here, and no statement before it uses what
    it assigns."""
    before = {name for statement in order[:k] for name in statement.names}
    return made.isdisjoint(order[k].uses) and before.isdisjoint(order[k].targets)
