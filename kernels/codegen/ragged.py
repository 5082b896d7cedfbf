"""Loops whose rows have lengths: where the loop of a program ends, and what is stored after it.

A program takes no step that none of its rows has. Rows are processed in the order of their lengths,
so that those of a program end at about the same step.
"""

from __future__ import annotations

from ..ir.expression import Expr, Name, code, expr, load, where
from ..ir.printer import INDENT
from ..ir.program import Tensor
from ..ir.statement import Statement, assign, do, printed
from ..ir.tile import SCALAR
from . import loads
from .loop_builder import PersistentBuilder
from .variables import V


def count(b: PersistentBuilder) -> Expr:
    """The number of steps."""
    return expr(V.longest if b.program.ends is not None else b.length(b.program.axis))


def sorted_rows(b: PersistentBuilder) -> list[Statement]:
    """The rows of a program, the longest first. Those beyond the last row stay beyond it."""
    if b.program.order is None:
        return []
    pointer = b.pointer(b.program.order)
    exists = code("{} < {}", V.rows, V.n_rows)
    found = load(code("{} + {}", pointer, V.rows), exists, "0")
    made = [
        assign(V.sorted_row, found.to("tl.int32")),
        assign(V.rows, where(exists, V.sorted_row, V.n_rows)),
    ]
    if b.program.block_axis and not b.frame.block_axis:  # a block's own row
        made.append(assign(V.row, load(code("{} + {}", pointer, V.row)).to("tl.int32")))
    return made


def steps(b: PersistentBuilder) -> list[Statement]:
    """The number of steps, if rows have lengths: at least one, so that all values are stored."""
    ends = b.program.ends
    if ends is None:
        return []
    longest, count = code("tl.maximum(tl.max({}), 1)", V.row_lengths), b.length(b.program.axis)
    return [
        assign(V.row_lengths, loads.read_at(b, ends, SCALAR, None)),
        assign(V.longest, code("tl.minimum({}, {}).to(tl.int32)", longest, count)),
    ]


def beyond(b: PersistentBuilder) -> list[str]:
    """The lines that fill what lies beyond the longest row of a program."""
    program = b.program
    stored = [(name, t) for name, t in program.stores if program.axis in t.axes]
    if program.ends is None or not stored:
        return []
    lines = [f"{INDENT}# beyond the longest of these rows"]
    if program.held:
        begin = [
            assign(V.t_last, code("{} - 1", V.longest)),
            do(code("tl.debug_barrier()")),  # other threads have stored what is read
        ]
        lines += printed(begin, INDENT)
    end = b.length(program.axis)
    for tensors in _by_pointer(b, stored):
        before, inside = list[Statement](), list[Statement]()
        for name, tensor in tensors:
            b.enter(b.ops[name])
            loaded, kept = loads.fill(b, name, tensor)
            before, inside = before + loaded, inside + kept
        head = code("for {} in tl.range({}, {}, num_stages=1):", V.t, V.longest, end)
        lines += [*printed(before, INDENT), INDENT + head.text, *printed(inside, INDENT * 2)]
    return lines


def _by_pointer(
    b: PersistentBuilder, stored: list[tuple[str, Tensor]]
) -> list[list[tuple[str, Tensor]]]:
    """The parts of each tensor: all are loaded before the first of them is stored."""
    found: dict[Name, list[tuple[str, Tensor]]] = {}
    for name, tensor in stored:
        found.setdefault(b.pointer(tensor), []).append((name, tensor))
    return list(found.values())
