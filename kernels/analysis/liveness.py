"""What of a kernel's lines is needed and when, and how much they hold at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

# not what comes behind a point, or is an argument's: `tl.where(x, mask=y)` says nothing of
# variables `where` and `mask`
_BEHIND, _BEFORE = r"(?<![\w.])", r"\b(?!=[^=])"
_WORD = re.compile(rf"{_BEHIND}[^\W\d]\w*{_BEFORE}")
_GIVEN = re.compile(r"(\w+(?:, \w+)*) = ")


def given(line: str) -> list[str]:
    """The variables that a line assigns."""
    found = _GIVEN.match(line)
    return found[1].split(", ") if found else []


def words(line: str) -> list[str]:
    """The names in a line, in their order."""
    return _WORD.findall(line)


def renamed(line: str, name: str, new: str) -> str:
    """A line with a variable under another name."""
    return re.sub(rf"{_BEHIND}{name}{_BEFORE}", new, line)


def needed(lines: Sequence[str]) -> set[int]:
    """The places of the lines that a store, or another such line, makes use of."""
    targets = [given(line) for line in lines]
    words = [_WORD.findall(line)[len(t) :] for line, t in zip(lines, targets, strict=True)]
    places = set(range(len(lines)))
    while True:
        used = {w for k in places for w in words[k]}
        dead = {k for k in places if targets[k] and used.isdisjoint(targets[k])}
        if not dead:
            return places
        places -= dead


def sunk(lines: Sequence[str]) -> list[int]:
    """The places of the lines in an order that has each load right before what first uses it."""
    order: list[int] = []
    waiting: dict[str, int] = {}
    for k, line in enumerate(lines):
        if "tl.load(" in line:
            waiting[given(line)[0]] = k
            continue
        order += [waiting.pop(w) for w in dict.fromkeys(_WORD.findall(line)) if w in waiting]
        order.append(k)
    return order + list(waiting.values())


def widths(before: Sequence[str], step: Sequence[str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The widths of the tiles alive where they are widest together.

    `sizes` are the widths of the variables that hold tiles of rows. What the loop reads of what was
    made before it, and what one step leaves to the next, is alive throughout.
    """
    made = {m[0] for line in before if (m := _WORD.match(line))}
    last: dict[str, int] = {}
    first: dict[str, int] = {}
    for k, line in enumerate(step):
        targets = given(line)
        for word in _WORD.findall(line)[len(targets) :]:
            if word in sizes:
                last[word] = k
                if word not in first and word in made:
                    first[word] = -1
        for target in sizes.keys() & targets:
            first.setdefault(target, k)
            if target in made:
                last[target] = len(step)
    for word in made & last.keys():
        first[word], last[word] = -1, len(step)
    spans = [(sizes[w], first.get(w, 0), end) for w, end in last.items() if first.get(w, 0) <= end]
    change = [0] * (len(step) + 2)
    for width, start, end in spans:
        change[max(start, 0)] += width
        change[end + 1] -= width
    alive = list(accumulate(change[: len(step)]))
    widest = alive.index(max(alive)) if alive else 0
    return tuple(width for width, start, end in spans if start <= widest <= end)
