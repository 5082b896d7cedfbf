"""The lines of source that PTX statements come from, by the directives `.file` and `.loc`."""

from __future__ import annotations

import linecache
import os
import re
from collections.abc import Callable
from typing import NamedTuple

# text for a file and a line of it, such as the node of a network that the line belongs to
Describe = Callable[[str, int], str]
# PTX ISA 9.1, section 11.5.4: `.loc file line column [, function_name label, inlined_at file line
# column]`
_LOC = re.compile(
    r"\.loc\s+(\d+)\s+(\d+)\s+(\d+)"
    r"(?:\s*,\s*function_name\s+[^,\n]+,\s*inlined_at\s+(\d+)\s+(\d+)\s+(\d+))?"
)
_FILE = re.compile(r"\.file\s+(\d+)\s+\"([^\"]*)\"")

Place = tuple[int, int, int]


class SourceLine(NamedTuple):
    """A line of a file; printed with its text if the file can be read."""

    file: str
    line: int

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{os.path.basename(self.file)}:{self.line}" + (f": {text}" if text else "")


class Locations:
    """The current source line while PTX is read, with the calls that it was inlined by."""

    def __init__(self, text: str):
        self.files = {int(number): name for number, name in _FILE.findall(text)}
        self.current: tuple[SourceLine, ...] = ()
        self._callers: dict[Place, tuple[SourceLine, ...]] = {}

    def read(self, directive: str) -> None:
        """Follow one `.loc` directive."""
        found = _LOC.match(directive)
        if found is None:
            return
        numbers = [int(x) if x else 0 for x in found.groups()]
        here: Place = (numbers[0], numbers[1], numbers[2])
        caller: Place = (numbers[3], numbers[4], numbers[5])
        # the place of a call is itself inlined as the directive said that named it last
        outer = self._callers.get(caller, (self._line(caller),)) if caller[0] else ()
        self.current = (self._line(here), *outer)
        self._callers[here] = self.current

    def _line(self, place: Place) -> SourceLine:
        return SourceLine(self.files.get(place[0], f"file {place[0]}"), place[1])


def described(source: tuple[SourceLine, ...], describe: Describe | None = None) -> str:
    """Return lines of text for a chain of source lines: the line, then where it was called."""
    lines = []
    for k, line in enumerate(source):
        lines.append(f"\n  {'called from' if k else 'source:    '} {line}")
        more = describe(line.file, line.line) if describe else ""
        if more:
            lines.append(f"\n  node:       {more}")
    return "".join(lines)
