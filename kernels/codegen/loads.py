"""Reading and writing tensors: addresses, masks, and loads one position ahead."""

from __future__ import annotations

import math
import re

from ..analysis.liveness import words
from ..analysis.matmul_form import WeightMatmul
from ..ir.printer import literal, times, total
from ..ir.program import Op, Part, Tensor, Unsupported
from ..ir.tile import Span
from .builder import KINDS
from .loop_builder import PersistentBuilder, Tile

NOTHING = {"float": "0.0", "acc": "0.0", "int": "0", "bool": "0"}


def read(page: PersistentBuilder, op: Op) -> None:
    """Loads a value; of what moves, the next position's are under way while this one is used.

    Without `page.ahead` it is loaded at its own position.
    """
    if _only_weight(page, op):
        return
    tensor: Tensor = op.attrs["tensor"]
    rows = page.over(tensor)
    cast = ".to(ACC)" if op.dtype == "float" else ""
    tiles = []
    shift = op.attrs.get("shift", 0)
    for span, name in page.named(op):
        if op.name not in page.moving:
            page.add(op, f"{name} = {load(page, tensor, span, '')}{cast}")
        elif page.ahead and not page.frame.mine:
            soon = page.names.fresh(f"{name}_next")
            text = load(page, tensor, span, _then(page, "first", shift))
            page.append(page.before, f"{soon} = {text}", op.note)
            page.add(op, f"{name} = {_started(page, op, span, soon + cast)}")
            page.add(op, f"{soon} = {load(page, tensor, span, _then(page, 'ahead', shift))}")
            page.tile(span, soon, span.width, rows)
        else:
            text = load(page, tensor, span, _then(page, "t", shift))
            if page.frame.mine and rows:  # it may be under way while others are used
                raw = page.names.fresh(f"{name}_kept")
                page.add(op, f"{raw} = {text}")
                page.tile(span, raw, span.width, rows)
                text = raw
            page.add(op, f"{name} = {_started(page, op, span, text + cast)}")
        tiles.append(page.tile(span, name, span.width, rows))
    page.tiles[op.name] = tuple(tiles)


def draw(page: PersistentBuilder, op: Op) -> None:
    """Random numbers of a value, each by a seed and its place in the tensor that it would fill.

    Forward and backward draw the same, whatever rows a program takes.
    """
    tensor: Tensor = op.attrs["tensor"]
    seed = page.names.fresh(f"{tensor.name}_seed")
    page.append(page.before, f"{seed} = tl.load({page.pointer(tensor)})", op.note)
    rows = page.over(tensor)
    law, p = op.attrs["law"], op.attrs["p"]
    page.used.add(law)
    tiles = []
    for span, name in page.named(op):
        given = [seed, place(page, tensor, span, "t"), *([repr(p)] if law == "dropout" else [])]
        page.add(op, f"{name} = {law}({', '.join(given)}, ACC)")
        tiles.append(page.tile(span, name, span.width, rows))
    page.tiles[op.name] = tuple(tiles)


def _then(page: PersistentBuilder, when: str, shift: int) -> str:
    """The position `shift` before another, or the nearest there is."""
    if shift > 0:
        return f"tl.maximum({when} - {shift}, 0)"
    if shift < 0:
        return f"tl.minimum({when} + {-shift}, {page.length(page.program.axis)} - 1)"
    return when


def _started(page: PersistentBuilder, op: Op, span: Span, text: str) -> str:
    """A shifted value: its first positions read what it starts from."""
    shift = op.attrs.get("shift", 0)
    for slot in range(abs(shift)):
        init = page.ops[op.args[slot if len(op.args) > 1 else 0]]
        if init.kind == "const":
            start = literal(init.attrs["value"], op.dtype)
            start = f"tl.full([1, 1], {start}, {KINDS[op.dtype]})"
        else:
            start = page.operand(op.name, init.name, span).text
        place = slot if shift > 0 else f"{page.length(page.program.axis)} - {1 + slot}"
        text = f"tl.where(t == {place}, {start}, {text})"
    return text


def _only_weight(page: PersistentBuilder, op: Op) -> bool:
    """Whether a value is read by matrix products alone, which load their own tiles of it."""
    products = [page.layout.products.get(user) for user in page.readers[op.name]]
    return bool(products) and all(
        isinstance(p, WeightMatmul) and p.weight == op.name and p.value != op.name for p in products
    )


def load(page: PersistentBuilder, tensor: Tensor, span: Span, when: str) -> str:
    """The text of a load at the position `when`."""
    rows = page.over(tensor)
    masks = _living(page, span) * rows + beyond(page, span) + edge(page, tensor, span)
    guard = f", mask={' & '.join(masks)}, other={NOTHING[tensor.kind]}" if masks else ""
    return f"tl.load({_address(page, tensor, span, when)}{guard})"


def store(page: PersistentBuilder, name: str, tensor: Tensor) -> None:
    """Keeps a value at each position."""
    mine = set(tensor.axes) - {page.program.axis, page.frame.lanes}
    if mine and mine != set(page.program.rows):
        raise Unsupported(f"'{name}' varies over some of the axes of its rows only")
    pointer, over = page.pointer(tensor), page.over(tensor)
    for tile in page.tiles[name]:
        kept = f"{_spread(page, tile, over)}.to({pointer}.dtype.element_ty)"
        address = _address(page, tensor, tile.span, "t")
        line = f"tl.store({address}, {kept}{_guard(page, tensor, tile)})"
        lines = page.step if page.program.axis else page.before
        page.append(lines, line, f"keep {page.ops[name].note or name}")


def fill(page: PersistentBuilder, name: str, tensor: Tensor) -> tuple[list[str], list[str]]:
    """The lines that store, at a position without a step, what is at `last`, or zeros.

    First those that load it.
    """
    pointer = page.pointer(tensor)
    before, inside = [], []
    for tile in page.tiles[name]:
        guard = _guard(page, tensor, tile)
        wide = page.over(tensor) or tile.rows
        value = f"tl.zeros([{page.shape(tile.span.width, wide)}], {pointer}.dtype.element_ty)"
        if page.program.held:
            value = page.names.fresh(f"{name}_last")
            last = _address(page, tensor, tile.span, "last")
            other = f"{guard}, other={NOTHING[tensor.kind]}" if guard else ""
            before.append(f"{value} = tl.load({last}{other})")
        inside.append(f"tl.store({_address(page, tensor, tile.span, 't')}, {value}{guard})")
    return before, inside


def _guard(page: PersistentBuilder, tensor: Tensor, tile: Tile) -> str:
    """The mask of a tile that is stored, if it needs one."""
    mine = bool(set(tensor.axes) - {page.program.axis, page.frame.lanes})
    masks = _stored(page, tensor, tile.span, mine) + beyond(page, tile.span)
    masks += edge(page, tensor, tile.span)
    return f", mask={' & '.join(masks)}" if masks else ""


def _living(page: PersistentBuilder, span: Span) -> list[str]:
    """The mask of rows, or of lanes that have one number each."""
    return ["there" if page.line(span.width) else page.frame.live]


def _stored(page: PersistentBuilder, tensor: Tensor, span: Span, mine: bool) -> list[str]:
    """Which rows are stored; what all blocks have alike, the first one stores."""
    frame = page.frame
    if frame.lanes:
        first = [f"tl.full([1, 1], {frame.rows} == 0, tl.int1)"]
        first *= not mine and bool(page.program.rows)
        parts = isinstance(tensor, Part) and tensor.period
        own = [frame.mine if parts else frame.leads] if frame.mine else []
        if own == ["mine"] and page.over(tensor):  # the lanes of no row are none
            own = []
        return _living(page, span) * page.over(tensor) + first + own
    alone = isinstance(tensor, Part) and not tensor.period
    return ["alone" if alone else "live"] * (mine or alone) + ["(rows == 0)"] * (not mine)


def _spread(page: PersistentBuilder, tile: Tile, rows: bool) -> str:
    return page.full(tile, tile.span.width, rows or tile.rows)


def beyond(page: PersistentBuilder, span: Span) -> list[str]:
    """The mask of a tile that is wider than its value."""
    return [f"({page.cols(span.width)} < {span.valid})"] if span.valid < span.width else []


def edge(page: PersistentBuilder, tensor: Tensor, span: Span) -> list[str]:
    """The mask of a block's own numbers, where they may reach beyond the period."""
    if not isinstance(tensor, Part) or not tensor.period or tensor.even:
        return []
    at = total([tensor.place, str(span.start % tensor.units), page.cols(span.width)])
    return [f"({at} < {tensor.period})"]


def column(page: PersistentBuilder, tensor: Tensor, span: Span) -> str:
    """Where in a row of a tensor the numbers of a span lie."""
    start, place = span.start, ""
    if isinstance(tensor, Part) and tensor.period:
        part, at = divmod(start, tensor.units)
        start, place = part * tensor.period + at, tensor.place
    start += tensor.first if isinstance(tensor, Part) else 0
    return total([str(start), place, page.cols(span.width) if span.width > 1 else ""])


def _address(page: PersistentBuilder, tensor: Tensor, span: Span, when: str) -> str:
    if page.frame.lanes:
        # one number of 64 bits for all lanes, and one of 32 for each
        start, inside = total(_rows(page, tensor, when)), _inside(page, tensor, span)
        if page.hoists and re.search(r"\bt\b", when):
            # `t` is below 2**30, but LLVM cannot know: what it can make of addresses before the
            # loop, or add to from step to step, it holds, two registers for each tensor (a Neural
            # Turing Machine of 128 slots, sm_90, bf16, 8 warps: 496 bytes spilled backward, 160
            # with this). A multiple of 16, it leaves loads as wide as they are
            inside = re.sub(r"\b(across|lane|cols_\d+)\b", r"(\1 + (t >> 30) * 16)", inside)
        return f"{page.pointer(tensor)} + ({start}) + ({inside})"
    return f"{page.pointer(tensor)} + ({place(page, tensor, span, when)})"


def _inside(page: PersistentBuilder, tensor: Tensor, span: Span) -> str:
    """Where in one row of a tensor the numbers of a span lie, of all lanes."""
    found = column(page, tensor, span)
    if page.over(tensor):
        return total([_across(page, tensor, span), found])
    return found if span.width > 1 else f"tl.full([1, 1], {found}, tl.int32)"


def _across(page: PersistentBuilder, tensor: Tensor, span: Span) -> str:
    """A lane's place in its row."""
    later = tensor.axes[tensor.axes.index(page.frame.lanes) + 1 :]
    lane = "across" if span.width == 1 else "lane"
    # in 64 bits the distance to a thread's other lanes is part of the load's instruction
    lane += "" if page.hoists else ".to(tl.int64)"
    return times(lane, *page.names.lengths(later), math.prod(tensor.shape))


def place(page: PersistentBuilder, tensor: Tensor, span: Span, when: str) -> str:
    """Where in a tensor the numbers of a span lie, at the position `when`."""
    parts = _rows(page, tensor, when)
    if page.frame.lanes:
        return total([*parts, _inside(page, tensor, span)])
    at = total([*parts, column(page, tensor, span)])
    if span.width == 1 and page.frame.rows not in words(at):
        at = f"tl.full([1, 1], {at}, tl.int64)" if when else f"tl.full([1, 1], {at}, tl.int32)"
    return at


def _rows(page: PersistentBuilder, tensor: Tensor, when: str) -> list[str]:
    """Where a tensor's rows of one position begin."""
    program, width = page.program, math.prod(tensor.shape)
    mine = tuple(a for a in tensor.axes if a not in (program.axis, page.frame.lanes))
    if unknown := set(mine) - set(program.rows):
        raise Unsupported(
            f"'{tensor.name}' varies over {', '.join(sorted(unknown))} inside the loop"
        )
    parts = [f"{when} * {_stride(page, tensor)}"] if program.axis in tensor.axes else []
    if mine == program.rows and tensor.axes[len(tensor.axes) - len(mine) :] == mine:
        return [*parts, times(page.frame.rows, width)] if mine else parts
    return [*parts, *(_along(page, tensor, a) for a in mine)]


def rows_at(page: PersistentBuilder, tensor: Tensor, when: str, rows: str) -> str:
    """Where a tensor's rows begin, for row numbers that are in another variable."""
    return re.sub(r"\brows\b", rows, total(_rows(page, tensor, when)))


def _stride(page: PersistentBuilder, tensor: Tensor) -> str:
    """The distance from one position to the next: 64 bits, for long sequences."""
    inner = tensor.axes[tensor.axes.index(page.program.axis) + 1 :]
    width = math.prod(tensor.shape)
    text = times(*(f"{page.length(a)}.to(tl.int64)" for a in inner), width)
    text = text if inner else f"tl.full([], {width}, tl.int64)"
    if text not in page.strides:
        page.strides[text] = page.names.fresh(f"{tensor.name}_step")
        page.append(page.before, f"{page.strides[text]} = {text}")
    return page.strides[text]


def _along(page: PersistentBuilder, tensor: Tensor, axis: str) -> str:
    """A row's position along one of its axes, times the tensor's stride there."""
    rows = page.program.rows
    k = rows.index(axis)
    inside = page.names.lengths(rows[k + 1 :])
    place = page.frame.rows
    place = f"({place} // ({' * '.join(inside)}))" if inside else place
    place = f"({place} % {page.length(axis)})" if k else place
    later = tensor.axes[tensor.axes.index(axis) + 1 :]
    return times(place, *(f"{page.length(a)}.to(tl.int64)" for a in later), math.prod(tensor.shape))
