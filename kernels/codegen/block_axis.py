"""Writes operations over a block axis, whose positions are the rows of tiles in one block."""

from __future__ import annotations

from ..analysis.block_axis import PER_POSITION
from ..ir.expression import Code, call, code, expr
from ..ir.program import Op
from .loop_builder import PersistentBuilder
from .variables import V


def position(b: PersistentBuilder, op: Op) -> None:
    """The position along the block axis."""
    ((span, name),) = b.named(op)
    b.add(op, name, expr(V.pos_row).to("tl.int64"))
    b.tiles[op.name] = (b.tile(span, name, 1, True),)


def over_positions(b: PersistentBuilder, op: Op) -> None:
    """A sum, a maximum, a softmax … over all positions, or a shift of all of them."""
    law, x = op.attrs["law"], op.args[0]
    if law == "roll" and op.attrs["shift"] == 0:
        b.tiles[op.name] = tuple(b.operand(op.name, x, s) for s in b.layout.spans[op.name])
        return
    many: Code = b.length(b.program.block_axis)
    if len(op.args) > 1:
        many = b.tiles[op.args[1]][0].value
    more = [str(op.attrs[k]) for k in ("shift", "position", "k") if k in op.attrs]
    tiles = []
    for span, name in b.named(op):
        tile = b.operand(op.name, x, span)
        flat = b.flat(span.width)
        which, live = (V.pos_row, expr(V.live_pos_row)) if flat else (V.pos, expr(b.frame.live))
        if len(op.args) > 1:
            live = code("{} & ({} < {})", live, which, many)
        value = call(law, b.full(tile, span.width), which, live, many, *more, int(flat))
        b.add(op, name, value)
        tiles.append(b.tile(span, name, span.width, law in PER_POSITION))
    b.tiles[op.name] = tuple(tiles)
