"""Reads and writes tensors: addresses, masks, and loads one step before they are used."""

from __future__ import annotations

import math

from ..analysis.matmul_form import WeightMatmul
from ..ir.expression import (
    Code,
    Expr,
    Name,
    both,
    call,
    code,
    expr,
    join,
    load,
    store,
    times,
    total,
)
from ..ir.printer import literal
from ..ir.program import Op, Part, Tensor, Unsupported
from ..ir.statement import Statement, assign, do
from ..ir.tile import Span, Tile
from .builder import KINDS, NOTHING
from .loop_builder import PersistentBuilder
from .variables import V


def read(b: PersistentBuilder, op: Op) -> None:
    """Loads a value. What varies from step to step is loaded for the next step while this one runs,
    or without `b.ahead` at its own step."""
    if _weight_only(b, op):
        return
    tensor: Tensor = op.attrs["tensor"]
    tiles = []
    for span, name in b.named(op):
        if op.name not in b.moving:
            b.add(op, name, _cast(op, read_at(b, tensor, span, None)))
        elif b.ahead and not b.frame.mine:
            _read_ahead(b, op, span, name)
        else:
            _read_now(b, op, span, name)
        tiles.append(b.tile(span, name, span.width, b.over(tensor)))
    b.tiles[op.name] = tuple(tiles)


def _cast(op: Op, value: Code) -> Expr:
    """Floating-point elements in the dtype that kernels compute in."""
    made = expr(value)
    return made.to("ACC") if op.dtype == "float" else made


def _read_ahead(b: PersistentBuilder, op: Op, span: Span, name: Name) -> None:
    """A variable for the next step's elements, loaded while this step uses those of its own."""
    tensor, shift = op.attrs["tensor"], op.attrs.get("shift", 0)
    following = b.fresh(f"{name.text}_next")
    b.begin(following, read_at(b, tensor, span, _shifted(b, V.t_first, shift)), op.note)
    b.add(op, name, _initial(b, op, span, _cast(op, following)))
    b.add(op, following, read_at(b, tensor, span, _shifted(b, V.t_next, shift)))
    b.tile(span, following, span.width, b.over(tensor))


def _read_now(b: PersistentBuilder, op: Op, span: Span, name: Name) -> None:
    """A load at its own step."""
    tensor, shift = op.attrs["tensor"], op.attrs.get("shift", 0)
    found: Code = read_at(b, tensor, span, _shifted(b, V.t, shift))
    if b.frame.mine and b.over(tensor):  # the load may be under way while other values are used
        raw = b.fresh(f"{name.text}_kept")
        b.add(op, raw, found)
        b.tile(span, raw, span.width, True)
        found = raw
    b.add(op, name, _initial(b, op, span, _cast(op, found)))


def draw(b: PersistentBuilder, op: Op) -> None:
    """Random elements, each by a seed and its place in the tensor that they would fill.

    Forward and backward draw the same elements, whatever rows a program computes.
    """
    tensor: Tensor = op.attrs["tensor"]
    seed = b.fresh(f"{tensor.name}_seed")
    b.begin(seed, load(b.pointer(tensor)), op.note)
    law, p = op.attrs["law"], op.attrs["p"]
    more = [repr(p)] if law == "dropout" else []
    tiles = []
    for span, name in b.named(op):
        b.add(op, name, call(law, seed, place(b, tensor, span, V.t), *more, "ACC"))
        tiles.append(b.tile(span, name, span.width, b.over(tensor)))
    b.tiles[op.name] = tuple(tiles)


def _shifted(b: PersistentBuilder, when: Name, shift: int) -> Expr:
    """The position `shift` before another, or the nearest one that exists."""
    if shift > 0:
        return code("tl.maximum({} - {}, 0)", when, shift)
    if shift < 0:
        return code("tl.minimum({} + {}, {} - 1)", when, -shift, b.length(b.program.axis))
    return expr(when)


def _initial(b: PersistentBuilder, op: Op, span: Span, value: Expr) -> Expr:
    """A shifted value: its first positions have initial values instead."""
    shift = op.attrs.get("shift", 0)
    for slot in range(abs(shift)):
        init = b.ops[op.args[slot if len(op.args) > 1 else 0]]
        if init.kind == "const":
            number = literal(init.attrs["value"], op.dtype)
            start = code("tl.full([1, 1], {}, {})", number, KINDS[op.dtype])
        else:
            start = b.operand(op.name, init.name, span).value
        length = b.length(b.program.axis)
        position = expr(slot) if shift > 0 else code("{} - {}", length, 1 + slot)
        value = code("tl.where({} == {}, {}, {})", V.t, position, start, value)
    return value


def _weight_only(b: PersistentBuilder, op: Op) -> bool:
    """Whether a value is read by matrix products alone, which load their own tiles of it."""
    products = [b.layout.products.get(user) for user in b.readers[op.name]]
    return (
        bool(products)
        and op.name not in b.outside_matmuls
        and all(
            isinstance(p, WeightMatmul) and p.weight == op.name and p.value != op.name
            for p in products
        )
    )


def read_at(b: PersistentBuilder, tensor: Tensor, span: Span, when: Code | None) -> Expr:
    """A load at the position `when`, if the tensor varies over positions."""
    masks = _living(b, span) * b.over(tensor) + beyond(b, span) + edge(b, tensor, span)
    return load(_address(b, tensor, span, when), both(masks), NOTHING[tensor.kind])


def write(b: PersistentBuilder, name: str, tensor: Tensor) -> None:
    """Stores a value at each position."""
    own = set(tensor.axes) - {b.program.axis, b.frame.block_axis}
    if own and own != set(b.program.rows):
        raise Unsupported(f"'{name}' varies over some of the axes of its rows only")
    pointer, over = b.pointer(tensor), b.over(tensor)
    for tile in b.tiles[name]:
        value = _stored_as(b.full(tile, tile.span.width, over or tile.rows), pointer)
        address = _address(b, tensor, tile.span, V.t)
        made = store(address, value, _guard(b, tensor, tile))
        part = b.step if b.program.axis else b.before
        b.append(part, do(made, f"keep {b.ops[name].note or name}"))


def _stored_as(value: Expr, pointer: Name) -> Expr:
    return code("{}.to({}.dtype.element_ty)", value, pointer)


def fill(
    b: PersistentBuilder, name: str, tensor: Tensor
) -> tuple[list[Statement], list[Statement]]:
    """Statements for a position without a step: load the value at `last`; store it or zeros."""
    pointer = b.pointer(tensor)
    before, inside = [], []
    for tile in b.tiles[name]:
        guard = _guard(b, tensor, tile)
        shape = join(", ", b.shape(tile.span.width, b.over(tensor) or tile.rows))
        value: Code = code("tl.zeros([{}], {}.dtype.element_ty)", shape, pointer)
        if b.program.held:
            value = b.fresh(f"{name}_last")
            at = _address(b, tensor, tile.span, V.t_last)
            before.append(assign(value, load(at, guard, NOTHING[tensor.kind])))
        inside.append(do(store(_address(b, tensor, tile.span, V.t), value, guard)))
    return before, inside


def _guard(b: PersistentBuilder, tensor: Tensor, tile: Tile) -> Expr:
    """The mask of a tile that is stored; empty if it needs none."""
    own = bool(set(tensor.axes) - {b.program.axis, b.frame.block_axis})
    masks = _stored(b, tensor, tile.span, own) + beyond(b, tile.span)
    return both(masks + edge(b, tensor, tile.span))


def _living(b: PersistentBuilder, span: Span) -> list[Code]:
    """The mask of rows, or of positions that have one element each."""
    return [V.live_pos_row if b.flat(span.width) else b.frame.live]


def _stored(b: PersistentBuilder, tensor: Tensor, span: Span, own: bool) -> list[Code]:
    """Which rows are stored. What is the same in all blocks is stored by the first one."""
    frame = b.frame
    if frame.block_axis:
        masks = _living(b, span) * b.over(tensor)
        if not own and b.program.rows:
            masks.append(code("tl.full([1, 1], {} == 0, tl.int1)", frame.rows))
        parts = isinstance(tensor, Part) and tensor.period
        block = frame.mine if parts else frame.leads
        # without a row, no position exists: their mask says enough
        if block is not None and not (block == V.has_row and b.over(tensor)):
            masks.append(block)
        return masks
    alone = isinstance(tensor, Part) and not tensor.period
    masks = [V.first_block if alone else V.live] * (own or alone)
    if not own:
        masks.append(code("({} == 0)", V.rows))
    return masks


def beyond(b: PersistentBuilder, span: Span) -> list[Code]:
    """The mask of a tile that is wider than its value."""
    if span.valid == span.width:
        return []
    return [code("({} < {})", b.cols(span.width), span.valid)]


def edge(b: PersistentBuilder, tensor: Tensor, span: Span) -> list[Code]:
    """The mask of a block's own elements, if they may reach beyond the period."""
    if not isinstance(tensor, Part) or not tensor.period or tensor.even:
        return []
    at = total([Name(tensor.shard_start), span.start % tensor.units, b.cols(span.width)])
    return [code("({} < {})", at, tensor.period)]


def column(b: PersistentBuilder, tensor: Tensor, span: Span) -> Expr:
    """The offsets in a row of a tensor of the elements of a span."""
    start, parts = span.start, list[Code]()
    if isinstance(tensor, Part) and tensor.period:
        part, at = divmod(start, tensor.units)
        start, parts = part * tensor.period + at, [Name(tensor.shard_start)]
    start += tensor.first if isinstance(tensor, Part) else 0
    return total([start, *parts, *columns(b, span)])


def columns(b: PersistentBuilder, span: Span) -> list[Name]:
    """The column indices of a tile, if it has several columns."""
    return [b.cols(span.width)] if span.width > 1 else []


def _address(b: PersistentBuilder, tensor: Tensor, span: Span, when: Code | None) -> Expr:
    if b.frame.block_axis:
        # one offset of 64 bits for all positions, and one of 32 for each
        start, inside = total(_rows(b, tensor, when)), _inside(b, tensor, span)
        if b.hoists and when is not None and V.t in expr(when).names:
            # LLVM keeps addresses that it can precompute or increment in two registers per tensor.
            # The term below prevents that: it is 0, as `t` is below 2**30, but LLVM cannot know it.
            # (A Neural Turing Machine of 128 slots, sm_90, bf16, 8 warps: 496 bytes spilled
            # backward, 160 with this.) As a multiple of 16 it does not make loads narrower
            inside = inside.replaced(_depending_on_t(b, inside))
        return code("{} + ({}) + ({})", b.pointer(tensor), start, inside)
    return code("{} + ({})", b.pointer(tensor), place(b, tensor, span, when))


def _depending_on_t(b: PersistentBuilder, inside: Expr) -> dict[Name, Code]:
    """An equal expression of `t` for each position or column counter."""
    counting = {V.pos_row, V.pos, *b.widths.values()}
    found = (name for name in inside.names if name in counting)
    return {name: code("({} + ({} >> 30) * 16)", name, V.t) for name in found}


def _inside(b: PersistentBuilder, tensor: Tensor, span: Span) -> Expr:
    """For all positions, the offsets of a span's elements within a row of a tensor."""
    found = column(b, tensor, span)
    if b.over(tensor):
        return total([_across(b, tensor, span), found])
    return found if span.width > 1 else code("tl.full([1, 1], {}, tl.int32)", found)


def _across(b: PersistentBuilder, tensor: Tensor, span: Span) -> Expr:
    """The offset of a position of the block axis in its row."""
    later = tensor.axes[tensor.axes.index(b.frame.block_axis) + 1 :]
    lane = expr(V.pos_row if span.width == 1 else V.pos)
    if not b.hoists:
        # a 64-bit offset lets the load encode the distance to a thread's other positions
        lane = lane.to("tl.int64")
    return times(lane, *b.lengths(later), math.prod(tensor.shape))


def place(b: PersistentBuilder, tensor: Tensor, span: Span, when: Code | None) -> Expr:
    """The offsets in a tensor of the elements of a span, at the position `when`."""
    parts = _rows(b, tensor, when)
    if b.frame.block_axis:
        return total([*parts, _inside(b, tensor, span)])
    at = total([*parts, column(b, tensor, span)])
    if span.width == 1 and b.frame.rows not in at.names:
        return code("tl.full([1, 1], {}, {})", at, "tl.int32" if when is None else "tl.int64")
    return at


def _rows(b: PersistentBuilder, tensor: Tensor, when: Code | None) -> list[Expr]:
    """Where a tensor's rows of one position begin."""
    program, width = b.program, math.prod(tensor.shape)
    own = tuple(a for a in tensor.axes if a not in (program.axis, b.frame.block_axis))
    if unknown := set(own) - set(program.rows):
        raise Unsupported(
            f"'{tensor.name}' varies over {', '.join(sorted(unknown))} inside the loop"
        )
    parts = []
    if program.axis in tensor.axes:
        parts.append(code("{} * {}", "" if when is None else when, _stride(b, tensor)))
    if own == program.rows and tensor.axes[len(tensor.axes) - len(own) :] == own:
        return [*parts, times(b.frame.rows, width)] if own else parts
    return [*parts, *(_along(b, tensor, a) for a in own)]


def rows_at(b: PersistentBuilder, tensor: Tensor, when: Code, rows: Name) -> Expr:
    """Where a tensor's rows begin, if another variable has the row numbers."""
    return total(_rows(b, tensor, when)).replaced({V.rows: rows})


def _stride(b: PersistentBuilder, tensor: Tensor) -> Name:
    """The distance from one position to the next: 64 bits, for long sequences."""
    if tensor in b.stride_of:
        return b.stride_of[tensor]
    inner = tensor.axes[tensor.axes.index(b.program.axis) + 1 :]
    width = math.prod(tensor.shape)
    value = code("tl.full([], {}, tl.int64)", width)
    if inner:
        value = times(*(expr(n).to("tl.int64") for n in b.lengths(inner)), width)
    if value.text not in b.strides:
        b.strides[value.text] = b.fresh(f"{tensor.name}_step")
        b.begin(b.strides[value.text], value)
    b.stride_of[tensor] = b.strides[value.text]
    return b.stride_of[tensor]


def _along(b: PersistentBuilder, tensor: Tensor, axis: str) -> Expr:
    """A row's position along one of its axes, times the tensor's stride there."""
    rows = b.program.rows
    k = rows.index(axis)
    inside = b.lengths(rows[k + 1 :])
    position = expr(b.frame.rows)
    if inside:
        position = code("({} // ({}))", position, join(" * ", inside))
    if k:
        position = code("({} % {})", position, b.length(axis))
    later = tensor.axes[tensor.axes.index(axis) + 1 :]
    wide = (expr(n).to("tl.int64") for n in b.lengths(later))
    return times(position, *wide, math.prod(tensor.shape))
