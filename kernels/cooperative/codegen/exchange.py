"""Writes inter-block communication: stores into exchange buffers, and loads from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...codegen import loads
from ...codegen.loop_builder import PersistentBuilder
from ...codegen.pointwise import JOINS, reduced
from ...codegen.variables import V
from ...ir.expression import Code, Expr, Name, both, code, expr, load, store, total
from ...ir.program import Op, Part
from ...ir.tile import Span, Tile
from ..plan.exchange import Exchange
from .builder import C, CooperativeBuilder


def address(
    exchange: Exchange,
    pointer: Name,
    slot: Code,
    column: Code,
    rows: Name = V.rows,
    far: bool = False,
) -> Expr:
    """Addresses of all rows' elements in a slot; 64-bit if `far`.

    A constant added to a 64-bit address is encoded in the store.
    """
    row = code("({} * {} + {})", slot, V.n_rows, rows)
    if far:
        row = row.to("tl.int64")
    return code("{} + ({})", pointer, total([code("{} * {}", row, exchange.size), column]))


def publish(
    b: CooperativeBuilder, exchange: Exchange, pointer: Name, tiles: Sequence[Tile], slot: Code
) -> list[Expr]:
    """Stores a block's own elements in `tiles`."""
    found = []
    for tile in tiles:
        own = b.frame.mine is not None
        span, value = tile.span, b.full(tile, tile.span.width, not own or tile.columns)
        masks = [_published(b, exchange, tile), *loads.beyond(b, span)]
        if own and exchange.part is None:
            column = _member(b, tile, code("{} // {}", C.block, b.sharded.owned_rows))
        elif exchange.part is None:
            blocks = exchange.size // len(tiles)
            column = total([span.start * blocks, C.block])
        elif own and not exchange.part.period:
            column = _along(b, span)
        else:
            column = loads.column(b, exchange.part, span)
            masks += loads.edge(b, exchange.part, span)
        at = address(exchange, pointer, slot, column, b.frame.rows, far=own)
        kept = code("{}.to({}.dtype.element_ty)", value, pointer)
        found.append(store(at, kept, both(masks)))
    return found


def received(
    exchange: Exchange,
    pointer: Name,
    column: Code,
    mask: Code,
    other: str = "0.0",
    rows: Name = V.rows,
) -> Expr:
    """A load of elements that other blocks have published."""
    at = address(exchange, pointer, C.slot, column, rows)
    return load(at, mask, other, exchanged=True)


def _checked(value: Expr) -> Expr:
    """A value that becomes NaN after a stuck barrier. A load remains a load."""
    made = code("{} + {}", value, C.poison)
    return made.as_load() if value.is_load else made


def all_gather(b: PersistentBuilder, op: Op, exchange: Exchange, pointer: Name) -> None:
    """Loads all elements of a sharded value."""
    tiles = []
    for span, name in b.named(op):
        column = total([span.start, *loads.columns(b, span)])
        mask = both([V.live, *loads.beyond(b, span)])
        b.add(op, name, _checked(received(exchange, pointer, column, mask).to("ACC")))
        tiles.append(b.tile(span, name, span.width, True))
    b.tiles[op.name] = tuple(tiles)


def fetch_row(b: PersistentBuilder, op: Op, exchange: Exchange, pointer: Name) -> None:
    """Loads the row that a block owns: all of its elements, or the block's part of them."""
    part: Part = op.attrs["part"]
    assert b.frame.mine is not None
    tiles = []
    for span, name in b.named(op):
        masks = [b.frame.mine, *loads.beyond(b, span), *loads.edge(b, part, span)]
        column = loads.column(b, part, span) if part.period else _along(b, span)
        value = received(exchange, pointer, column, both(masks), rows=b.frame.rows)
        b.add(op, name, _checked(value.to("ACC")))
        tiles.append(b.tile(span, name, span.width, False))
    b.tiles[op.name] = tuple(tiles)


def _published(b: PersistentBuilder, exchange: Exchange, tile: Tile) -> Name:
    """The mask of the elements of a tile that a block publishes."""
    frame = b.frame
    if frame.mine is None or frame.leads is None:
        return frame.live
    if tile.columns:
        return V.live_pos_row
    return frame.leads if exchange.part is not None and not exchange.part.period else frame.mine


def _member(b: PersistentBuilder, tile: Tile, member: Code) -> Expr:
    """The address of a block's partial sum: one per position, or a single one."""
    if tile.columns:
        return code("({}) * {} + {}", member, b.frame.height, V.pos_row)
    return code("tl.full([1, 1], {}, tl.int32)", member)


def row_reduce(b: CooperativeBuilder, op: Op, exchange: Exchange, pointer: Name) -> None:
    """The sum or maximum of the partial results of the blocks that share one row."""
    ((span, name),) = b.named(op)
    (tile,) = b.tiles[exchange.value]
    mask = V.live_pos_row if tile.columns else b.frame.mine
    assert mask is not None
    value: Expr | None = None
    for member in range(b.sharded.groups):
        column = _member(b, tile, member)
        part = received(exchange, pointer, column, mask, rows=b.frame.rows)
        value = part if value is None else code(JOINS[op.attrs["join"]], value, part)
    # the scheduler treats loads that are combined at once as one load
    b.add(op, name, _checked((value or expr("")).as_load()))
    b.tiles[op.name] = (b.tile(span, name, 1, tile.columns),)


def _along(b: PersistentBuilder, span: Span) -> Expr:
    """The offsets of the elements of a span in one row."""
    if span.width == 1:
        return code("tl.full([1, 1], {}, tl.int32)", span.start)
    return total([span.start, b.cols(span.width)])


def fetch_shard(b: PersistentBuilder, op: Op, exchange: Exchange, pointer: Name) -> None:
    """Loads a block's own elements of a value that the owner of each row has published in full."""
    part: Part = op.attrs["part"]
    tiles = []
    for span, name in b.named(op):
        mask = both([V.live, *loads.beyond(b, span), *loads.edge(b, part, span)])
        value = received(exchange, pointer, loads.column(b, part, span), mask)
        b.add(op, name, _checked(value.to("ACC")))
        tiles.append(b.tile(span, name, span.width, True))
    b.tiles[op.name] = tuple(tiles)


SELECTED = {
    "float": "tl.sum(tl.where({0} == {1}, {2}, 0.0), 0, keep_dims=True)",
    "int": "tl.sum(tl.where({0} == {1}, {2}, 0), 0, keep_dims=True).to(tl.int64)",
    "bool": "tl.max(tl.where({0} == {1}, {2}.to(tl.int32), 0), 0, keep_dims=True) != 0",
}


def own_row(b: PersistentBuilder, op: Op) -> None:
    """A block's own row of what it has of all rows."""
    tiles = []
    for span, name in b.named(op):
        tile = b.operand(op.name, op.args[0], span)
        value = code(SELECTED[op.dtype], V.rows, V.row, tile.value) if tile.rows else tile.value
        b.add(op, name, value)
        tiles.append(b.tile(span, name, tile.width, False))
    b.tiles[op.name] = tuple(tiles)


def all_reduce(b: PersistentBuilder, op: Op, exchange: Exchange, pointer: Name) -> None:
    """The sum, or the maximum, of the parts of all blocks: an all-reduce."""
    kind = op.attrs["join"]
    tiles = []
    for span, name in b.named(op):
        parts = _parts(b, op, exchange, pointer, span, 0.0 if kind == "sum" else -math.inf)
        b.add(op, name, _checked(reduced(kind, parts)))
        tiles.append(b.tile(span, name, 1, True))
    b.tiles[op.name] = tuple(tiles)


def spread(
    b: PersistentBuilder, op: Op, exchange: Exchange, pointer: Name, sums: tuple[Exchange, Name]
) -> None:
    """The sum of squares about a number: of blocks about their own means, and of these about it."""
    ((span, name),) = b.named(op)
    squares = _parts(b, op, exchange, pointer, span, 0.0)
    parts = _parts(b, op, *sums, span, 0.0)
    part, groups = op.attrs["part"], op.attrs["groups"]
    places = code("{} * {}", b.cols(_width(op)), part.units)
    owned = "(tl.minimum(tl.maximum({} - {}, 0), {}) * {}).to(ACC)"
    count, off = b.fresh(f"{name.text}_counts"), b.fresh(f"{name.text}_off")
    about = b.full(b.at(op.args[1], 0), 1)
    b.add(op, count, code(owned, part.period, places, part.units, groups))
    b.add(op, off, code("{} / tl.maximum({}, 1.0) - {}", parts, count, about))
    value = code("tl.sum({0} + {1} * {2} * {2}, 1, keep_dims=True)", squares, count, off)
    b.add(op, name, _checked(value))
    b.tiles[op.name] = (b.tile(span, name, 1, True),)


def _width(op: Op) -> int:
    """The width of a tile with one element of each block."""
    return 1 << (op.attrs["blocks"] - 1).bit_length()


def _parts(
    b: PersistentBuilder, op: Op, exchange: Exchange, pointer: Name, span: Span, neutral: float
) -> Expr:
    """A load of each block's part of one sum, a column of a tile."""
    blocks, cols = op.attrs["blocks"], b.cols(_width(op))
    column = total([span.start * blocks, cols])
    masks: list[Code] = [V.live]
    masks += [code("({} < {})", cols, blocks)] * (blocks < _width(op))
    return received(exchange, pointer, column, both(masks), f"float('{neutral}')")


def shard_size(b: PersistentBuilder, op: Op) -> None:
    """The number of elements of a value that a block has."""
    part, ((span, name),) = op.attrs["part"], b.named(op)
    value = "tl.full([1, 1], tl.minimum(tl.maximum({} - {}, 0), {}) * {}, tl.int32).to(ACC)"
    place, groups = Name(part.shard_start), op.attrs["groups"]
    b.add(op, name, code(value, part.period, place, part.units, groups))
    b.tiles[op.name] = (Tile(expr(name), span=span),)


def in_shard(b: PersistentBuilder, op: Op) -> None:
    """Which of a block's own elements are within the period."""
    tiles = []
    for span, name in b.named(op):
        part: Part = op.attrs["part"]
        at = total([Name(part.shard_start), span.start % part.units, b.cols(span.width)])
        b.add(op, name, code("({}) < {}", at, part.period))
        tiles.append(Tile(expr(name), width=span.width, span=span))
    b.tiles[op.name] = tuple(tiles)
