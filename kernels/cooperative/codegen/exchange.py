"""What thread blocks of one loop tell each other at a step, and where in memory it lies.

An exchange has slots that steps use in turn: a block that has gone on to the next step must not
write over what another still reads. Two are enough where a block arrives at the last barrier of a
step behind its reads of states. One that may arrive before, as what a state of several steps ago
will be is known early, takes three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...codegen import loads
from ...codegen.loop_builder import PersistentBuilder, Tile
from ...codegen.pointwise import JOINS
from ...ir.printer import total
from ...ir.program import Op, Part
from ...ir.tile import Span

if TYPE_CHECKING:
    from .builder import CooperativeBuilder

# the slots that steps take in turn, and where states are read behind the last arrival
SLOTS, EARLY = 2, 3


@dataclass(frozen=True)
class Exchange:
    """A value of which each block publishes its own numbers and all blocks read all.

    `value` is an operation of the shared program, `size` the numbers of a row. `wide` are exchanged
    as they are computed, others in the launch's dtype, to which matrix products round anyway. A
    `state` is read by the step after the one that publishes it. Without a `part` a block's numbers
    are its share of sums: those of one sum lie together.
    """

    name: str
    value: str
    size: int
    wide: bool
    state: bool
    part: Part | None
    note: str


def address(
    exchange: Exchange,
    pointer: str,
    slot: str,
    column: str,
    rows: str = "rows",
    far: bool = False,
) -> str:
    """Where the numbers of all rows lie, in a slot; if `far`, in 64 bits.

    What is added to a place of 64 bits is part of the instruction that stores there.
    """
    place = f"({slot} * n_rows + {rows}){'.to(tl.int64)' * far}"
    at = total([f"{place} * {exchange.size}", column])
    return f"{pointer} + ({at})"


def publish(
    page: CooperativeBuilder, exchange: Exchange, pointer: str, tiles: list[Tile], slot: str
) -> list[str]:
    """The lines that store a block's own numbers, of these `tiles`."""
    lines = []
    for tile in tiles:
        own = bool(page.frame.mine)
        span, text = tile.span, page.full(tile, tile.span.width, not own or tile.line)
        masks = [_publishing(page, exchange, tile), *loads.beyond(page, span)]
        if own and exchange.part is None:
            column = _member(page, tile, f"share // {page.shared.each}")
        elif exchange.part is None:
            blocks = exchange.size // len(tiles)
            column = total([str(span.start * blocks), "share"])
        elif own and not exchange.part.period:
            column = _along(page, span)
        else:
            column = loads.column(page, exchange.part, span)
            masks += loads.edge(page, exchange.part, span)
        at = address(exchange, pointer, slot, column, page.frame.rows, far=own)
        kept = f"{text}.to({pointer}.dtype.element_ty)"
        lines.append(f"tl.store({at}, {kept}, mask={' & '.join(masks)})")
    return lines


def joined(page: PersistentBuilder, op: Op, exchange: Exchange, pointer: str) -> None:
    """All numbers of a value that is shared out."""
    tiles = []
    for span, name in page.named(op):
        column = total([str(span.start), page.cols(span.width) if span.width > 1 else ""])
        masks = " & ".join(["live", *loads.beyond(page, span)])
        page.add(op, f"{name} = {load(exchange, pointer, column, masks)}.to(ACC) + trust")
        tiles.append(page.tile(span, name, span.width, True))
    page.tiles[op.name] = tuple(tiles)


def fetched(page: PersistentBuilder, op: Op, exchange: Exchange, pointer: str) -> None:
    """The numbers of a value, of a block's own row: all, or those of them that are its own."""
    part: Part = op.attrs["part"]
    tiles = []
    for span, name in page.named(op):
        masks = [page.frame.mine, *loads.beyond(page, span), *loads.edge(page, part, span)]
        column = loads.column(page, part, span) if part.period else _along(page, span)
        text = load(exchange, pointer, column, " & ".join(masks), rows=page.frame.rows)
        page.add(op, f"{name} = {text}.to(ACC) + trust")
        tiles.append(page.tile(span, name, span.width, False))
    page.tiles[op.name] = tuple(tiles)


def _publishing(page: PersistentBuilder, exchange: Exchange, tile: Tile) -> str:
    """Which numbers of a tile a block publishes."""
    frame = page.frame
    if not frame.mine:
        return frame.live
    if tile.line:
        return "there"
    return frame.leads if exchange.part is not None and not exchange.part.period else frame.mine


def _member(page: CooperativeBuilder, tile: Tile, member: str) -> str:
    """Where one block of a row has its part of a sum: of each lane, or one number."""
    if tile.line:
        return f"({member}) * {page.frame.height} + across"
    return f"tl.full([1, 1], {member}, tl.int32)"


def gathered(page: CooperativeBuilder, op: Op, exchange: Exchange, pointer: str) -> None:
    """The sum, or the largest, of what the blocks of one row have of it."""
    ((span, name),) = page.named(op)
    (tile,) = page.tiles[exchange.value]
    mask = "there" if tile.line else page.frame.mine
    text = ""
    for member in range(page.shared.groups):
        column = _member(page, tile, str(member))
        part = load(exchange, pointer, column, mask, rows=page.frame.rows)
        text = JOINS[op.attrs["join"]].format(text, part) if text else part
    page.add(op, f"{name} = {text} + trust")
    page.tiles[op.name] = (page.tile(span, name, 1, tile.line),)


def _along(page: PersistentBuilder, span: Span) -> str:
    """The places of a span in one row."""
    if span.width == 1:
        return f"tl.full([1, 1], {span.start}, tl.int32)"
    return total([str(span.start), page.cols(span.width)])


def portion(page: PersistentBuilder, op: Op, exchange: Exchange, pointer: str) -> None:
    """A block's own numbers of a value of which each row's block has published all."""
    part: Part = op.attrs["part"]
    tiles = []
    for span, name in page.named(op):
        masks = ["live", *loads.beyond(page, span), *loads.edge(page, part, span)]
        text = load(exchange, pointer, loads.column(page, part, span), " & ".join(masks))
        page.add(op, f"{name} = {text}.to(ACC) + trust")
        tiles.append(page.tile(span, name, span.width, True))
    page.tiles[op.name] = tuple(tiles)


SELECTED = {
    "float": "tl.sum(tl.where(rows == row, {0}, 0.0), 0, keep_dims=True)",
    "int": "tl.sum(tl.where(rows == row, {0}, 0), 0, keep_dims=True).to(tl.int64)",
    "bool": "tl.max(tl.where(rows == row, {0}.to(tl.int32), 0), 0, keep_dims=True) != 0",
}


def selected(page: PersistentBuilder, op: Op) -> None:
    """A block's own row of what it has of all rows."""
    tiles = []
    for span, name in page.named(op):
        tile = page.operand(op.name, op.args[0], span)
        text = SELECTED[op.dtype].format(tile.text) if tile.rows else tile.text
        page.add(op, f"{name} = {text}")
        tiles.append(page.tile(span, name, tile.width, False))
    page.tiles[op.name] = tuple(tiles)


def merged(page: PersistentBuilder, op: Op, exchange: Exchange, pointer: str) -> None:
    """The sum, or the largest, of what all blocks have of it."""
    kind = op.attrs["join"]
    tiles = []
    for span, name in page.named(op):
        parts = _parts(page, op, exchange, pointer, span, 0.0 if kind == "sum" else -math.inf)
        page.add(op, f"{name} = tl.{kind}({parts}, 1, keep_dims=True) + trust")
        tiles.append(page.tile(span, name, 1, True))
    page.tiles[op.name] = tuple(tiles)


def spread(
    page: PersistentBuilder, op: Op, exchange: Exchange, pointer: str, sums: tuple[Exchange, str]
) -> None:
    """The sum of squares about a number: of blocks about their own means, and of these about it."""
    ((span, name),) = page.named(op)
    squares = _parts(page, op, exchange, pointer, span, 0.0)
    parts = _parts(page, op, *sums, span, 0.0)
    part, groups = op.attrs["part"], op.attrs["groups"]
    places = f"{page.cols(_width(op))} * {part.units}"
    owned = f"tl.minimum(tl.maximum({part.period} - {places}, 0), {part.units}) * {groups}"
    count, off = page.names.fresh(f"{name}_counts"), page.names.fresh(f"{name}_off")
    about = page.full(page.at(op.args[1], 0), 1)
    page.add(op, f"{count} = ({owned}).to(ACC)")
    page.add(op, f"{off} = {parts} / tl.maximum({count}, 1.0) - {about}")
    page.add(op, f"{name} = tl.sum({squares} + {count} * {off} * {off}, 1, keep_dims=True) + trust")
    page.tiles[op.name] = (page.tile(span, name, 1, True),)


def _width(op: Op) -> int:
    """The width of a tile with a number of each block."""
    return 1 << (op.attrs["blocks"] - 1).bit_length()


def _parts(
    page: PersistentBuilder, op: Op, exchange: Exchange, pointer: str, span: Span, nothing: float
) -> str:
    """A load of each block's part of one sum, a column of a tile."""
    blocks, cols = op.attrs["blocks"], page.cols(_width(op))
    column = total([str(span.start * blocks), cols])
    masks = "live" + f" & ({cols} < {blocks})" * (blocks < _width(op))
    return load(exchange, pointer, column, masks, f"float('{nothing}')")


def owned(page: PersistentBuilder, op: Op) -> None:
    """How many numbers of a value a block has."""
    part, ((span, name),) = op.attrs["part"], page.named(op)
    mine = f"tl.minimum(tl.maximum({part.period} - {part.place}, 0), {part.units})"
    text = f"tl.full([1, 1], {mine} * {op.attrs['groups']}, tl.int32).to(ACC)"
    page.add(op, f"{name} = {text}")
    page.tiles[op.name] = (Tile(span, name, 1, False),)


def load(
    exchange: Exchange,
    pointer: str,
    column: str,
    masks: str,
    other: str = "0.0",
    rows: str = "rows",
) -> str:
    """A load of what other blocks have published: past the cache of this multiprocessor."""
    at = address(exchange, pointer, "turn", column, rows)
    return f'tl.load({at}, mask={masks}, other={other}, cache_modifier=".cg")'


def inside(page: PersistentBuilder, op: Op) -> None:
    """Which of a block's own numbers are within the period."""
    tiles = []
    for span, name in page.named(op):
        part: Part = op.attrs["part"]
        at = total([part.place, str(span.start % part.units), page.cols(span.width)])
        page.add(op, f"{name} = ({at}) < {part.period}")
        tiles.append(Tile(span, name, span.width, False))
    page.tiles[op.name] = tuple(tiles)
