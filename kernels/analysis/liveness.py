"""Which statements of a kernel are needed and when, and how much they hold at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

from ..ir.expression import Name
from ..ir.statement import Statement


def needed(statements: Sequence[Statement]) -> set[Statement]:
    """The statements that have an effect, or make a value that another needed one reads."""
    alive = set(statements)
    while True:
        used = {name for statement in alive for name in statement.uses}
        dead = {s for s in alive if s.targets and used.isdisjoint(s.targets)}
        if not dead:
            return alive
        alive -= dead


def sunk(statements: Sequence[Statement]) -> list[Statement]:
    """The statements with each load right before the statement that first uses it."""
    order: list[Statement] = []
    waiting: dict[Name, Statement] = {}
    for statement in statements:
        if statement.loads:
            waiting[statement.targets[0]] = statement
            continue
        order += [waiting.pop(name) for name in statement.names if name in waiting]
        order.append(statement)
    return order + list(waiting.values())


def widths(
    before: Sequence[Statement], step: Sequence[Statement], sizes: Mapping[Name, int]
) -> tuple[int, ...]:
    """The widths of the tiles that are alive at the point where they are widest together.

    `sizes` are the widths of the variables that hold tiles of rows. What the loop reads of what was
    made `before` it, and what one step leaves to the next, is alive throughout.
    """
    made = {name for statement in before for name in statement.targets}
    last: dict[Name, int] = {}
    first: dict[Name, int] = {}
    for k, statement in enumerate(step):
        for name in statement.uses:
            if name in sizes:
                last[name] = k
                if name not in first and name in made:
                    first[name] = -1
        for target in sizes.keys() & set(statement.targets):
            first.setdefault(target, k)
            if target in made:
                last[target] = len(step)
    for name in made & last.keys():
        first[name], last[name] = -1, len(step)
    spans = [(sizes[n], first.get(n, 0), end) for n, end in last.items() if first.get(n, 0) <= end]
    change = [0] * (len(step) + 2)
    for width, start, end in spans:
        change[max(start, 0)] += width
        change[end + 1] -= width
    alive = list(accumulate(change[: len(step)]))
    widest = alive.index(max(alive)) if alive else 0
    return tuple(width for width, start, end in spans if start <= widest <= end)
