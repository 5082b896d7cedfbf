"""Wide values that a step loads once more rather than holds until they are used again.

A load is an address and a mask; what it brings takes registers for as long as it is held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..codegen.loop_builder import Line
from ..ir.symbols import NameTable
from .liveness import given, renamed, words

# registers a thread from which a value is worth loading again, and lines between its uses (a Neural
# Turing Machine of 128 slots, backward, sm_80, bf16, Triton 3.6: 56 bytes spilled without, none so)
WIDE, APART = 4, 24


def reloaded(lines: Sequence[Line], used: set[str], sizes: Mapping[str, int]) -> list[Line]:
    """The lines, with loads of wide values again where their uses lie far apart.

    Values of `used` are held anyway; `sizes` are registers of variables.
    """
    found: list[Line] = []
    held = _cones(lines, used, sizes)
    names = NameTable(word for line in lines for word in words(line.text))
    for k, line in enumerate(lines):
        for cone in held.values():
            if cone.last >= 0 and cone.used_by(line):
                if k - cone.last > APART:
                    found += cone.again(names)
                cone.last = k
        for name in given(line.text):
            if name in held:
                held[name].last = k
        text = line.text
        for cone in held.values():
            text = cone.renamed(text)
        found.append(replace(line, text=text))
    return found


@dataclass
class _Cone:
    """A value, the lines that load it, where it was used last, and under which name it is now."""

    name: str
    lines: list[Line]
    now: str = ""
    last: int = -1

    def used_by(self, line: Line) -> bool:
        return self.name in words(line.text) and not any(line is x for x in self.lines)

    def renamed(self, text: str) -> str:
        return renamed(text, self.name, self.now) if self.now else text

    def again(self, names: NameTable) -> list[Line]:
        """Its lines once more, under names that are free."""
        texts = [line.text for line in self.lines]
        for old in [name for text in texts for name in given(text)]:
            new = names.fresh(f"{old}_again")
            texts = [renamed(text, old, new) for text in texts]
            self.now = new
        return [replace(line, text=text) for line, text in zip(self.lines, texts)]


def _cones(lines: Sequence[Line], used: set[str], sizes: Mapping[str, int]) -> dict[str, _Cone]:
    """Wide values that are made of one load alone."""
    made = {name: line for line in lines for name in given(line.text)}
    times = Counter(name for line in lines for name in given(line.text))
    found: dict[str, _Cone] = {}
    for line in lines:
        names = given(line.text)
        if len(names) != 1 or times[names[0]] > 1 or names[0] in used:
            continue
        of = [made[w] for w in dict.fromkeys(words(line.text)[1:]) if w in made]
        if " = tl.load(" in line.text and not of and ".cg" not in line.text:
            found[names[0]] = _Cone(names[0], [line])
        elif len(of) == 1 and (name := given(of[0].text)[0]) in found:
            found[names[0]] = _Cone(names[0], [*found[name].lines, line])
    wide = {name: cone for name, cone in found.items() if sizes.get(name, 0) >= WIDE}
    inner = {given(x.text)[0] for cone in wide.values() for x in cone.lines[:-1]}
    return {name: cone for name, cone in wide.items() if name not in inner}
