"""The text of attention kernels: what a program computes first, its loops over columns, its end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..codegen.builder import CONSTANTS
from ..ir.expression import Expr, Name, code, expr, join
from ..ir.printer import INDENT
from ..ir.source import KernelFunction, module
from ..ir.statement import Statement, assign, printed
from .builder import AttentionBuilder, V


class ColumnLoop(NamedTuple):
    """A loop over columns: the statements before it, and those of one step."""

    before: list[Statement]
    step: list[Statement]


def kernel_text(b: AttentionBuilder, loops: Sequence[ColumnLoop]) -> str:
    """Return the text of the module with a kernel that consists of `loops`, then `b.after`."""
    statements = [*(s for loop in loops for s in (*loop.before, *loop.step)), *b.after]
    read = {name for s in statements for name in s.uses}
    columns = _needed(_column_positions(), read)
    read |= {V.BEGIN, V.END, V.PROGRAM, *(name for s in columns for name in s.uses)}
    body = [INDENT + line for line in _kind(b, read)]
    body += printed(_needed(_program_positions(b), read), INDENT)
    for loop in loops:
        body += printed(loop.before, INDENT)
        body.append(INDENT + _loop_head())
        body += printed([*columns], INDENT * 2)
        body += printed(loop.step, INDENT * 2)
    body += printed(b.after, INDENT)
    return module(b.program.title, [_function(b, body)])


def _function(b: AttentionBuilder, body: Sequence[str]) -> KernelFunction:
    scalars = [*b.lengths(b.program.sizes), V.LENGTH]
    rows, *others = CONSTANTS
    return KernelFunction(
        b.entry,
        b.imports(),
        tuple(pointer.text for pointer in b.pointers.values()),
        tuple(scalar.text for scalar in scalars),
        (rows, "COLS", *others),
        tuple(body),
    )


def _kind(b: AttentionBuilder, read: set[Name]) -> list[str]:
    """Return the line that defines the dtype of what is read, if it is used."""
    first = next(t for t in b.program.tensors if t.kind == "float")
    text = f"{V.KIND.text}: tl.constexpr = {b.element_type(first).text}"
    return [text] * (V.KIND in read)


def _program_positions(b: AttentionBuilder) -> list[Statement]:
    """Return the statements that find the rows, block and part of the columns of a program."""
    p = b.program

    def count(axes: tuple[str, ...]) -> Expr:
        return join(" * ", b.lengths(axes)) if axes else expr("1")

    return [
        assign(V.PROGRAM, "tl.program_id(0).to(tl.int64)"),
        assign(V.N_ROWS, count(p.rows)),
        assign(V.N_COLS, count(p.columns)),
        assign(V.N_BLOCKS, count(p.blocks)),
        assign(V.TILES, code("tl.cdiv({}, ROWS)", V.N_ROWS)),
        assign(V.TILE, code("{} % {}", V.PROGRAM, V.TILES)),
        assign(V.BLOCK, code("{} // {} % {}", V.PROGRAM, V.TILES, V.N_BLOCKS)),
        assign(V.PART, code("{} // ({} * {})", V.PROGRAM, V.TILES, V.N_BLOCKS)),
        assign(V.ROW, code("{} * ROWS + tl.arange(0, ROWS)[:, None]", V.TILE)),
        assign(V.ROW_VALID, code("{} < {}", V.ROW, V.N_ROWS)),
        assign(V.BEGIN, code("{} * {}", V.PART, V.LENGTH)),
        assign(V.END, code("tl.minimum({} + {}, {})", V.BEGIN, V.LENGTH, V.N_COLS)),
        *b.ranges(),
    ]


def _loop_head() -> str:
    return code("for {} in range({}, {}, COLS):", V.START, V.BEGIN, V.END).text


def _column_positions() -> list[Statement]:
    """Return the statements that find the columns of a step."""
    return [
        assign(V.COL, code("{} + tl.arange(0, COLS)[None, :]", V.START)),
        assign(V.COL_VALID, code("{} < {}", V.COL, V.END)),
        assign(V.COL_DOWN, code("{} + tl.arange(0, COLS)[:, None]", V.START)),
        assign(V.COL_DOWN_VALID, code("{} < {}", V.COL_DOWN, V.END)),
    ]


def _needed(statements: Sequence[Statement], read: Iterable[Name]) -> list[Statement]:
    """Return the statements whose variables are read by later ones, or are in `read`."""
    names, kept = set(read), list[Statement]()
    for statement in reversed(statements):
        if not names.isdisjoint(statement.targets):
            kept.append(statement)
            names.update(statement.uses)
    return kept[::-1]
