"""What thread blocks of one loop tell each other at a step, and where in memory it lies.

An exchange has two slots that steps use in turn: a block that has gone on to the next step must not
write over what another still reads. Two are enough, since a barrier lies between any two steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from . import memory
from .page import Page, Tile
from .program import Op, Part
from .text import total

# the slots that steps take in turn
SLOTS = 2


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


def address(exchange: Exchange, pointer: str, slot: str, column: str, rows: str = "rows") -> str:
    """Where the numbers of all rows lie, in a slot."""
    at = total([f"({slot} * n_rows + {rows}) * {exchange.size}", column])
    return f"{pointer} + ({at})"


def publish(
    page: Page, exchange: Exchange, pointer: str, tiles: list[Tile], slot: str
) -> list[str]:
    """The lines that store a block's own numbers, of these `tiles`."""
    lines = []
    for tile in tiles:
        span, text = tile.span, page.full(tile, tile.span.width)
        masks = ["live", *memory.beyond(page, span)]
        if exchange.part is None:
            blocks = exchange.size // len(tiles)
            column = total([str(span.start * blocks), "share"])
        else:
            column = memory.column(page, exchange.part, span)
            masks += memory.edge(page, exchange.part, span)
        at = address(exchange, pointer, slot, column)
        kept = f"{text}.to({pointer}.dtype.element_ty)"
        lines.append(f"tl.store({at}, {kept}, mask={' & '.join(masks)})")
    return lines


def joined(page: Page, op: Op, exchange: Exchange, pointer: str) -> None:
    """All numbers of a value that is shared out."""
    tiles = []
    for span, name in page.named(op):
        column = total([str(span.start), page.cols(span.width) if span.width > 1 else ""])
        masks = " & ".join(["live", *memory.beyond(page, span)])
        page.add(op, f"{name} = {fetched(exchange, pointer, column, masks)}.to(ACC) + trust")
        tiles.append(page.tile(span, name, span.width, True))
    page.tiles[op.name] = tuple(tiles)


def merged(page: Page, op: Op, exchange: Exchange, pointer: str) -> None:
    """The sum, or the largest, of what all blocks have of it."""
    blocks, kind = op.attrs["blocks"], op.attrs["join"]
    width = 1 << (blocks - 1).bit_length()
    nothing = 0.0 if kind == "sum" else -math.inf
    tiles = []
    for span, name in page.named(op):
        column = total([str(span.start * blocks), page.cols(width)])
        masks = "live" + f" & ({page.cols(width)} < {blocks})" * (blocks < width)
        parts = fetched(exchange, pointer, column, masks, f"float('{nothing}')")
        page.add(op, f"{name} = tl.{kind}({parts}, 1, keep_dims=True) + trust")
        tiles.append(page.tile(span, name, 1, True))
    page.tiles[op.name] = tuple(tiles)


def fetched(
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


def inside(page: Page, op: Op) -> None:
    """Which of a block's own numbers are within the period."""
    tiles = []
    for span, name in page.named(op):
        part: Part = op.attrs["part"]
        at = total([part.place, str(span.start % part.units), page.cols(span.width)])
        page.add(op, f"{name} = ({at}) < {part.period}")
        tiles.append(Tile(span, name, span.width, False))
    page.tiles[op.name] = tuple(tiles)
