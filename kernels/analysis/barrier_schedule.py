"""The order of a shared step's lines, where it takes all of an axis and tiles come in pieces.

Between two barriers a piece is taken through all that is made of it before the next is begun; the
loads of those to come are under way meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from ..codegen.loop_builder import Line
from .list_schedule import ordered
from .liveness import given, words
from .reload_wide import reloaded

# what no line is moved across
_FENCE = re.compile(r"arrive\(|patience = |trust = ")
# loads that are under way before the first is used
AHEAD = 2


def fenced(step: Sequence[Line], ends: Sequence[Line], sizes: Mapping[str, int]) -> list[Line]:
    """The lines of a step, and `ends` after them; `sizes` are those of variables."""
    lines: list[Line] = []
    for first, last in _stretches(step):
        outside = [*step[:first], *step[last:], *ends]
        used = {word for line in outside for word in words(line.text)}
        part = step[first:last]
        places = ordered([line.text for line in part], sizes, used)
        lines += [part[k] for k in places]
    held = {word for line in ends for word in words(line.text)}
    return _under_way(reloaded(lines, held, sizes))


def _under_way(step: Sequence[Line]) -> list[Line]:
    """The lines with loads ahead of what uses them, and of a wait."""
    found: list[Line] = []
    waits = 0
    for first, last in _stretches(step):
        if last > first and _FENCE.match(step[first].text):
            waits = len(found) if step[first].text.startswith("patience = ") else waits
            found += step[first:last]
            continue
        lines = _ahead(step[first:last])
        early = [line for line in takewhile(_loads, lines) if ".cg" not in line.text]
        found[waits:waits] = early
        found += [line for line in lines if not any(line is x for x in early)]
    return found


def _loads(line: Line) -> bool:
    """Whether a line loads: what a block has been given is under way while it waits for others."""
    return " = tl.load(" in line.text


def _stretches(step: Sequence[Line]) -> Iterator[tuple[int, int]]:
    """From fence to fence; each fence alone."""
    first = 0
    for k, line in enumerate(step):
        if _FENCE.match(line.text):
            yield first, k
            yield k, k + 1
            first = k + 1
    yield first, len(step)


def _ahead(order: Sequence[Line]) -> list[Line]:
    """The lines between two fences, each load put where the one `AHEAD` of it stands."""
    made = {name for line in order for name in given(line.text)}
    free = [k for k, line in enumerate(order) if _loads(line) and _free(order, k, made)]
    begin = dict(zip(free, [*free[:1] * AHEAD, *free]))
    places = sorted(range(len(order)), key=lambda k: (begin.get(k, k), k))
    return [order[k] for k in places]


def _free(order: Sequence[Line], k: int, made: set[str]) -> bool:
    """Whether a line uses nothing that is `made` here, and gives what no line before it uses."""
    names = given(order[k].text)
    before = {word for line in order[:k] for word in words(line.text)}
    return made.isdisjoint(words(order[k].text)[len(names) :]) and before.isdisjoint(names)
