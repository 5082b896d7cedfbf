"""Pointwise operations, views, products and reductions, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from ..analysis.matmul_form import Term, ValueMatmul, WeightMatmul
from ..ir.expression import Code, Expr, bare, code, functions, join, where
from ..ir.printer import exact, literal
from ..ir.program import Op
from ..ir.tile import Span, Tile
from .builder import KINDS
from .loop_builder import PersistentBuilder
from .matmul import matmul

# two parts of a reduction combined
JOINS = {"sum": "{0} + {1}", "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)"}
# all columns of a tile combined into one
REDUCTIONS = {"sum": "tl.sum({}, 1, keep_dims=True)", "max": "nan_max({}, 1)[:, None]"}


class Summand(NamedTuple):
    """A part of a result: whether it varies over rows, and its columns."""

    value: Expr
    rows: bool
    width: int


def pointwise(b: PersistentBuilder, op: Op) -> None:
    """The template, filled with the tiles that line up."""
    template = op.attrs["template"]
    tiles = []
    for span, name in b.named(op):
        args = [a for a in op.args if b.ops[a].kind != "const"]
        found, width, rows = b.meet([b.operand(op.name, a, span) for a in args])
        made = iter(found)
        values = [next(made) if a in args else number(b.ops[a], op) for a in op.args]
        b.add(op, name, bare(code(template, *values, calls=functions(template))))
        tiles.append(b.tile(span, name, width, rows))
    b.tiles[op.name] = tuple(tiles)


def number(const: Op, op: Op) -> Expr:
    """A constant operand: a plain number between operators, if float32 has it exactly."""
    kind = "float" if op.dtype == "float" else const.dtype
    text = literal(const.attrs["value"], kind)
    if exact(const.attrs["value"]) and "(" not in op.attrs["template"].lstrip("("):
        return code("{}", text)
    return code("tl.full([1, 1], {}, {})", text, KINDS[kind])


def view(b: PersistentBuilder, op: Op) -> None:
    """Slices and joins: the same tiles under another name."""
    b.tiles[op.name] = tuple(_viewed(b, op, s) for s in b.layout.spans[op.name])


def _viewed(b: PersistentBuilder, op: Op, span: Span) -> Tile:
    value: object = 0
    for arg, places in zip(op.args, op.attrs["maps"], strict=True):
        if places[span.start] >= 0 and b.ops[arg].kind != "const":
            return replace(b.at(arg, int(places[span.start])), span=span)
        if places[span.start] >= 0:
            value = b.ops[arg].attrs["value"]
    made = code("tl.full([1, 1], {}, {})", literal(value, op.dtype), KINDS[op.dtype])
    return Tile(made, span=span)


def einsum(b: PersistentBuilder, op: Op) -> None:
    """A product of two values: a matrix product by a weight, or element by element."""
    how = b.layout.products[op.name]
    if isinstance(how, WeightMatmul):
        matmul(b, op, how)
    else:
        _multiply(b, op, how)


def _multiply(b: PersistentBuilder, op: Op, how: ValueMatmul) -> None:
    """Sums of pointwise products of tiles."""
    tiles = []
    for span, name in b.named(op):
        parts: list[Summand] = []
        for term in how.terms:
            if how.moves[0] and term.out <= span.start < term.out + how.size:
                parts.append(_pair(b, op, how, term, span.start - term.out))
            elif not how.moves[0] and term.out == span.start:
                parts += _summed(b, op, how, term)
        b.add(op, name, join(" + ", [p.value for p in parts]))
        rows = any(p.rows for p in parts)
        tiles.append(b.tile(span, name, max(p.width for p in parts), rows))
    b.tiles[op.name] = tuple(tiles)


def _pair(b: PersistentBuilder, op: Op, how: ValueMatmul, term: Term, shift: int) -> Summand:
    left = b.at(op.args[0], term.a + shift * how.moves[1])
    right = b.at(op.args[1], term.b + shift * how.moves[2])
    values, width, rows = b.meet([left, right])
    return Summand(join(" * ", values), rows, width)


def _summed(b: PersistentBuilder, op: Op, how: ValueMatmul, term: Term) -> list[Summand]:
    """The parts of one element: a sum over each pair of tiles."""
    k = 0 if how.moves[1] else 1
    found: list[Summand] = []
    for tile in b.tiles[op.args[k]]:
        shift = tile.span.start - (term.a, term.b)[k]
        if 0 <= shift < how.size:
            pair = _pair(b, op, how, term, shift)
            value = _total(b, code("({})", pair.value), tile.span, pair.width, "sum")
            found.append(Summand(_flat(b, value, pair.rows and pair.width > 1), pair.rows, 1))
    return found


def _total(b: PersistentBuilder, value: Expr, span: Span, width: int, kind: str) -> Expr:
    """The sum or the maximum of a tile's columns, without those beyond the value."""
    if span.width == 1:
        return value
    if width == 1:
        return code("({} * {})", value, span.valid) if kind == "sum" else value
    if span.valid < span.width:
        neutral = "0.0" if kind == "sum" else 'float("-inf")'
        value = where(code("{} < {}", b.cols(span.width), span.valid), bare(value), neutral)
    return reduced(kind, bare(value))


def reduced(kind: str, value: Code) -> Expr:
    """The sum or the maximum of the columns of a tile, as one column."""
    return code(REDUCTIONS[kind], value, calls=functions(REDUCTIONS[kind]))


def _flat(b: PersistentBuilder, value: Expr, rows: bool) -> Expr:
    """A reduced row is one element. With a block axis it is placed along the row."""
    return code("tl.trans({})", value) if rows and b.frame.block_axis else value


def reduce(b: PersistentBuilder, op: Op) -> None:
    """Sums and maxima over dimensions of a value's own shape."""
    x, dims = b.ops[op.args[0]], set(op.attrs["dims"])
    last = len(x.shape) - 1 in dims
    if b.frame.mine and last and _equal(b.tiles[x.name]):
        _reduce_at_last(b, op, JOINS[op.kind])
        return
    tiles = []
    for span, name in b.named(op):
        value, rows, width = None, False, 1
        for tile in b.tiles[x.name]:
            if _place(tile.span.start, x.shape, dims) != span.start:
                continue
            part = tile.value
            if last:
                part = _total(b, part, tile.span, tile.width, op.kind)
                part = _flat(b, part, tile.rows)
            rows = rows or tile.rows or tile.columns
            width = width if last else max(width, tile.width)
            value = part if value is None else code(JOINS[op.kind], value, part)
        b.add(op, name, value or "")
        tiles.append(b.tile(span, name, width, rows))
    b.tiles[op.name] = tuple(tiles)


def _equal(tiles: Sequence[Tile]) -> bool:
    """Whether there are several tiles of positions, equally wide and full."""
    full = all(t.rows and t.span.valid == t.width for t in tiles)
    return full and len(tiles) > 1 and len({t.width for t in tiles}) == 1


def _reduce_at_last(b: PersistentBuilder, op: Op, template: str) -> None:
    """Combines pieces element by element, each as it is made, and reduces their columns after."""
    ((span, name),) = b.named(op)
    first, *more = b.tiles[op.args[0]]
    value: Code = first.value
    for piece in more:
        made = b.fresh(f"{name.text}_of_pieces")
        b.add(op, made, code(template, value, piece.value))
        b.tile(span, made, first.width, True)
        value = made
    b.add(op, name, _flat(b, reduced(op.kind, value), True))
    b.tiles[op.name] = (b.tile(span, name, 1, True),)


def _place(start: int, shape: tuple[int, ...], dims: set[int]) -> int:
    """The flat index, without the dimensions `dims`, of the element at `start`."""
    index = []
    for n in reversed(shape):
        index.append(start % n)
        start //= n
    flat = 0
    for d, n in enumerate(shape):
        if d not in dims:
            flat = flat * n + index[len(shape) - 1 - d]
    return flat
