"""The order of a step's lines that holds least at once, where tiles of all lanes come in pieces.

Between two barriers a piece is taken through all that is made of it before the next is begun; the
loads of those to come are under way meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile

from .live import given
from .page import Line

_WORD = re.compile(r"[A-Za-z_]\w*")
# what no line is moved across
_FENCE = re.compile(r"arrive\(|patience = |trust = ")
# loads that are under way before the first is used
AHEAD = 2


def ordered(step: Sequence[Line], ends: Sequence[Line], sizes: Mapping[str, int]) -> list[Line]:
    """The lines of a step, and `ends` after them; `sizes` are the numbers that variables hold."""
    found: list[Line] = []
    waits = 0
    for first, last in _stretches(step):
        outside = [*step[:first], *step[last:], *ends]
        used = {word for line in outside for word in _WORD.findall(line.text)}
        lines = _Stretch(step[first:last], used, sizes).ordered()
        if last > first and _FENCE.match(step[first].text):
            waits = len(found) if step[first].text.startswith("patience = ") else waits
            found += lines
            continue
        early = [line for line in takewhile(_given, lines) if ".cg" not in line.text]
        found[waits:waits] = early
        found += [line for line in lines if not any(line is x for x in early)]
    return found


def _given(line: Line) -> bool:
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


class _Stretch:
    """Lines of which each waits for those that give, or still use, what it uses or gives anew."""

    def __init__(self, lines: Sequence[Line], used: set[str], sizes: Mapping[str, int]):
        self.lines, self.used, self.sizes = lines, used, sizes
        self.gives = [given(line.text) for line in lines]
        self.reads = [
            set(_WORD.findall(line.text)[len(names) :])
            for line, names in zip(lines, self.gives, strict=True)
        ]
        self.readers: dict[str, set[int]] = {}
        for k, words in enumerate(self.reads):
            for word in words & sizes.keys():
                self.readers.setdefault(word, set()).add(k)
        self.waits = self._waits()

    def _waits(self) -> list[set[int]]:
        """For each line those that go before it."""
        maker: dict[str, int] = {}
        reading: dict[str, list[int]] = {}
        waits: list[set[int]] = []
        for k, names in enumerate(self.gives):
            before = {maker[w] for w in self.reads[k] if w in maker}
            for name in names:
                before |= {*reading.get(name, ()), *([maker[name]] if name in maker else [])}
            waits.append(before - {k})
            for word in self.reads[k]:
                reading.setdefault(word, []).append(k)
            maker.update(dict.fromkeys(names, k))
        return waits

    def ordered(self) -> list[Line]:
        """Always the line next that adds least to what is held, the loads run ahead."""
        return [self.lines[k] for k in self._ahead(self._thrifty())]

    def _thrifty(self) -> list[int]:
        """The order in which loads come right before what first uses them."""
        loads = {k for k in range(len(self.lines)) if self._loads(k)}
        left = {k: len(before - loads) for k, before in enumerate(self.waits)}
        after: dict[int, list[int]] = {}
        for k, before in enumerate(self.waits):
            for j in before - loads:
                after.setdefault(j, []).append(k)
        ready = {k for k, count in left.items() if not count and k not in loads}
        order: list[int] = []
        while ready:
            k = min(ready, key=lambda k: (self._added(k, loads), k))
            ready.remove(k)
            order += [*sorted(self.waits[k] & loads), k]
            loads -= self.waits[k]
            for word in self.reads[k] & self.readers.keys():
                self.readers[word].discard(k)
            for j in after.get(k, ()):
                left[j] -= 1
                if not left[j]:
                    ready.add(j)
        return order + sorted(loads)

    def _added(self, k: int, loads: set[int]) -> int:
        """How much more is held after a line, and those of the `loads` that it waits for."""
        new = [name for j in (k, *(self.waits[k] & loads)) for name in self.gives[j]]
        gone = [w for w in self.reads[k] if self.readers.get(w) == {k} and w not in self.used]
        return sum(self.sizes.get(w, 0) for w in new) - sum(self.sizes[w] for w in gone)

    def _ahead(self, order: list[int]) -> list[int]:
        """The same order, each load put where the one `AHEAD` of it stands."""
        loads = [k for k in order if self._loads(k)]
        begin = {**dict(zip(order, order)), **dict(zip(loads, [*loads[:1] * AHEAD, *loads]))}
        place = {k: n for n, k in enumerate(order)}
        return sorted(order, key=lambda k: (place[begin[k]], place[k]))

    def _loads(self, k: int) -> bool:
        """Whether a line loads what hangs on no other line here."""
        return "tl.load(" in self.lines[k].text and not self.waits[k]
