"""The text of generated code: numbers, and lines of at most 100 columns."""

from __future__ import annotations

import math
import re
from typing import Any

COLUMNS, INDENT = 100, "    "
_BRACKET, _MARK = re.compile(r"[()]"), re.compile(r"[][(),]")


def literal(value: Any, kind: str) -> str:
    """A number as source code, of the kind of the operation that it belongs to."""
    if kind == "float":
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def exact(value: Any) -> bool:
    """Whether a number is the same in float32 as in float64."""
    if not isinstance(value, float):
        return True
    return math.isfinite(value) and value * 2**20 == int(value * 2**20) and abs(value) < 2**20


def wrapped(line: str, indent: str, after: int = 0) -> list[str]:
    """A line; if it and `after` more columns are too long, its last call takes several lines."""
    if len(indent) + len(line) + after <= COLUMNS:
        return [indent + line]
    start = _opening(line)
    if start is None:
        return [indent + line]
    if cast := re.fullmatch(r"(.*\))(\.to\([\w.]+\))", line):
        rows = wrapped(cast[1], indent, len(cast[2]))
        return [*rows[:-1], rows[-1] + cast[2]]
    inside = line[start + 1 : -1]
    deeper = indent + INDENT
    if len(deeper) + len(inside) <= COLUMNS:
        rows = [deeper + inside]
    else:
        rows = [r for part in _parts(inside) for r in wrapped(f"{part},", deeper)]
    return [indent + line[: start + 1], *rows, indent + line[-1]]


def _opening(line: str) -> int | None:
    """The index of the bracket that the end of the line closes."""
    if not line.endswith(")"):
        return None
    depth = 0
    for k in reversed([m.start() for m in _BRACKET.finditer(line)]):
        depth += 1 if line[k] == ")" else -1
        if depth == 0:
            return k
    return None


def closing(text: str, start: int) -> int:
    """The index of the bracket that closes the one at `start`, or -1."""
    depth = 0
    for found in _BRACKET.finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return -1


def _parts(text: str) -> list[str]:
    """The arguments of a call."""
    found, depth, start = [], 0, 0
    for mark in _MARK.finditer(text):
        depth += (mark[0] in "([") - (mark[0] in ")]")
        if mark[0] == "," and depth == 0:
            found.append(text[start : mark.start()].strip())
            start = mark.end()
    return [*found, text[start:].strip()]
