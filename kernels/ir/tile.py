"""Spans of the elements of a value, each in one tile of the kernel."""

from __future__ import annotations

from dataclasses import dataclass

from .expression import Expr, code


@dataclass(frozen=True)
class Span:
    """A tile's place in a flat value: the first `valid` of its `width` columns hold the elements
    from `start` on."""

    start: int
    valid: int
    width: int

    @property
    def shape(self) -> tuple[int, ...]:
        """A suffix that distinguishes this span from others with the same first element."""
        return self.valid, self.width


SCALAR = Span(0, 1, 1)


@dataclass(frozen=True)
class Tile:
    """An expression, usually one variable, that holds a span of a value.

    `rows` is whether it varies over the rows of tiles, `columns` whether it varies over their
    columns: over keys in attention, over the positions of a block axis in loops. Its shape is

    * [rows or 1, columns or 1] if its `width` is 1,
    * [rows or 1, width] without columns, [columns, width] with columns alone,
    * [rows, columns, width] with both.
    """

    value: Expr
    rows: bool = False
    columns: bool = False
    width: int = 1
    span: Span = SCALAR

    @property
    def both(self) -> bool:
        """Whether it varies over rows and columns."""
        return self.rows and self.columns

    @property
    def upright(self) -> Expr:
        """The tile with its columns, if it has one element for each, laid along the rows."""
        return code("tl.trans({})", self.value) if self.columns else self.value
