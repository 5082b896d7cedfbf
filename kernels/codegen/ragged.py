"""Where the loop of a program ends whose rows have lengths, and what is stored beyond.

No step is taken where none of a program's rows is. Rows are taken in the order of their lengths, so
that those of a program end about together.
"""

from __future__ import annotations

from ..ir.printer import INDENT, wrapped
from ..ir.tile import Span
from . import loads
from .loop_builder import PersistentBuilder

NUMBER = Span(0, 1, 1)


def count(page: PersistentBuilder) -> str:
    """The variable that holds how many steps there are."""
    return "stop" if page.program.ends is not None else page.length(page.program.axis)


def sorted_rows(page: PersistentBuilder) -> list[str]:
    """The rows of a program, the longest first; those beyond the last stay beyond it."""
    if page.program.order is None:
        return []
    pointer = page.pointer(page.program.order)
    lines = [
        f"place = tl.load({pointer} + rows, mask=rows < n_rows, other=0).to(tl.int32)",
        "rows = tl.where(rows < n_rows, place, n_rows)",
    ]
    own = page.program.lanes and not page.frame.lanes
    return [*lines, *[f"row = tl.load({pointer} + row).to(tl.int32)"] * bool(own)]


def steps(page: PersistentBuilder) -> list[str]:
    """How many steps are taken, where rows have lengths: one at least, so that all is stored."""
    ends = page.program.ends
    if ends is None:
        return []
    most = page.length(page.program.axis)
    return [
        f"ends = {loads.load(page, ends, NUMBER, '')}",
        f"stop = tl.minimum(tl.maximum(tl.max(ends), 1), {most}).to(tl.int32)",
    ]


def beyond(page: PersistentBuilder) -> list[str]:
    """The lines that store what lies beyond the longest of a program's rows."""
    program = page.program
    kept = [(name, t) for name, t in program.stores if program.axis in t.axes]
    if program.ends is None or not kept:
        return []
    lines = ["# beyond the longest of these rows"]
    if program.held:
        lines += ["last = stop - 1", "tl.debug_barrier()"]  # what other threads stored is read
    for name, tensor in kept:
        page.enter(page.ops[name])
        before, inside = loads.fill(page, name, tensor)
        lines += before
        lines.append(f"for t in tl.range(stop, {page.length(program.axis)}, num_stages=1):")
        lines += [INDENT + line for line in inside]
    return [text for line in lines for text in _indented(line)]


def _indented(line: str) -> list[str]:
    depth = 2 if line.startswith(INDENT) else 1
    return wrapped(line.lstrip(), INDENT * depth)
