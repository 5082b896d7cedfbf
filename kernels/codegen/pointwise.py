"""Pointwise operations, views, products and reductions, tile by tile."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ..analysis.matmul_form import Term, ValueMatmul, WeightMatmul
from ..ir.printer import bare, exact, literal
from ..ir.program import Op
from ..ir.tile import Span
from .builder import KINDS, PRELUDE
from .loop_builder import PersistentBuilder, Tile
from .matmul import dot

Part = tuple[str, bool, int]
# two parts of a reduction made one
JOINS = {"sum": "{0} + {1}", "max": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)"}


def point(page: PersistentBuilder, op: Op) -> None:
    """The template, filled with the tiles that line up."""
    page.used.update(set(re.findall(r"\b[a-z0-9]+(?=\()", op.attrs["template"])) & set(PRELUDE))
    tiles = []
    for span, name in page.named(op):
        args = [a for a in op.args if page.ops[a].kind != "const"]
        found, width, rows = page.meet([page.operand(op.name, a, span) for a in args])
        made = iter(found)
        texts = [next(made) if a in args else _number(page, a, op) for a in op.args]
        page.add(op, f"{name} = {bare(op.attrs['template'].format(*texts))}")
        tiles.append(page.tile(span, name, width, rows))
    page.tiles[op.name] = tuple(tiles)


def _number(page: PersistentBuilder, arg: str, op: Op) -> str:
    """A number beside tiles: bare between operators, where float32 has it exactly."""
    const = page.ops[arg]
    kind = "float" if op.dtype == "float" else const.dtype
    text = literal(const.attrs["value"], kind)
    if exact(const.attrs["value"]) and "(" not in op.attrs["template"].lstrip("("):
        return text
    return f"tl.full([1, 1], {text}, {KINDS[kind]})"


def view(page: PersistentBuilder, op: Op) -> None:
    """Slices and joins: the same tiles under another name."""
    page.tiles[op.name] = tuple(_viewed(page, op, s) for s in page.layout.spans[op.name])


def _viewed(page: PersistentBuilder, op: Op, span: Span) -> Tile:
    value: object = 0
    for arg, places in zip(op.args, op.attrs["maps"], strict=True):
        if places[span.start] >= 0 and page.ops[arg].kind != "const":
            return replace(page.at(arg, int(places[span.start])), span=span)
        if places[span.start] >= 0:
            value = page.ops[arg].attrs["value"]
    text = f"tl.full([1, 1], {literal(value, op.dtype)}, {KINDS[op.dtype]})"
    return Tile(span, text, 1, False)


def product(page: PersistentBuilder, op: Op) -> None:
    """By tiles of a resident weight, or number by number."""
    how = page.layout.products[op.name]
    if isinstance(how, WeightMatmul):
        dot(page, op, how)
    else:
        _multiply(page, op, how)


def _multiply(page: PersistentBuilder, op: Op, how: ValueMatmul) -> None:
    """Sums of pointwise products of tiles."""
    tiles = []
    for span, name in page.named(op):
        parts: list[Part] = []
        for term in how.terms:
            if how.moves[0] and term.out <= span.start < term.out + how.size:
                parts.append(_pair(page, op, how, term, span.start - term.out))
            elif not how.moves[0] and term.out == span.start:
                parts += _summed(page, op, how, term)
        page.add(op, f"{name} = {' + '.join(p[0] for p in parts)}")
        rows = any(p[1] for p in parts)
        tiles.append(page.tile(span, name, max(p[2] for p in parts), rows))
    page.tiles[op.name] = tuple(tiles)


def _pair(page: PersistentBuilder, op: Op, how: ValueMatmul, term: Term, shift: int) -> Part:
    a = page.at(op.args[0], term.a + shift * how.moves[1])
    b = page.at(op.args[1], term.b + shift * how.moves[2])
    (left, right), width, rows = page.meet([a, b])
    return f"{left} * {right}", rows, width


def _summed(page: PersistentBuilder, op: Op, how: ValueMatmul, term: Term) -> list[Part]:
    """The parts of one number: a sum over each pair of tiles."""
    k = 0 if how.moves[1] else 1
    found: list[Part] = []
    for tile in page.tiles[op.args[k]]:
        shift = tile.span.start - (term.a, term.b)[k]
        if 0 <= shift < how.size:
            text, rows, width = _pair(page, op, how, term, shift)
            text = _total(page, f"({text})", tile.span, width, "sum")
            found.append((_lined(page, text, rows and width > 1), rows, 1))
    return found


def _total(page: PersistentBuilder, text: str, span: Span, width: int, kind: str) -> str:
    """The sum or the largest of a tile's columns, those beyond the value left out."""
    if span.width == 1:
        return text
    if width == 1:
        return f"({text} * {span.valid})" if kind == "sum" else text
    if span.valid < span.width:
        none = "0.0" if kind == "sum" else 'float("-inf")'
        text = f"tl.where({page.cols(span.width)} < {span.valid}, {bare(text)}, {none})"
    return f"tl.{kind}({bare(text)}, 1, keep_dims=True)"


def _lined(page: PersistentBuilder, text: str, rows: bool) -> str:
    """What is left of a row, one number: of lanes they are a line."""
    return f"tl.trans({text})" if rows and page.frame.lanes else text


def reduce(page: PersistentBuilder, op: Op) -> None:
    """Sums and maxima over dimensions of a value's own shape."""
    x, dims = page.ops[op.args[0]], set(op.attrs["dims"])
    last = len(x.shape) - 1 in dims
    if page.frame.mine and last and _equal(page.tiles[x.name]):
        _at_last(page, op, JOINS[op.kind])
        return
    tiles = []
    for span, name in page.named(op):
        text, rows, width = "", False, 1
        for tile in page.tiles[x.name]:
            if _place(tile.span.start, x.shape, dims) != span.start:
                continue
            part = tile.text
            if last:
                part = _total(page, part, tile.span, tile.width, op.kind)
                part = _lined(page, part, tile.rows)
            rows = rows or tile.rows or tile.line
            width = width if last else max(width, tile.width)
            text = JOINS[op.kind].format(text, part) if text else part
        page.add(op, f"{name} = {text}")
        tiles.append(page.tile(span, name, width, rows))
    page.tiles[op.name] = tuple(tiles)


def _equal(tiles: Sequence[Tile]) -> bool:
    """Whether tiles of lanes are several, as wide as each other and full."""
    full = all(t.rows and t.span.valid == t.width for t in tiles)
    return full and len(tiles) > 1 and len({t.width for t in tiles}) == 1


def _at_last(page: PersistentBuilder, op: Op, join: str) -> None:
    """Pieces are taken together number by number, each as it comes, and only then their columns."""
    ((span, name),) = page.named(op)
    text, *more = (t.text for t in page.tiles[op.args[0]])
    for piece in more:
        made = page.names.fresh(f"{name}_of_pieces")
        page.add(op, f"{made} = {join.format(text, piece)}")
        page.tile(span, made, page.tiles[op.args[0]][0].width, True)
        text = made
    page.add(op, f"{name} = {_lined(page, f'tl.{op.kind}({text}, 1, keep_dims=True)', True)}")
    page.tiles[op.name] = (page.tile(span, name, 1, True),)


def _place(start: int, shape: tuple[int, ...], dims: set[int]) -> int:
    """The flat place, with `dims` taken away, of the number at `start`."""
    index = []
    for n in reversed(shape):
        index.append(start % n)
        start //= n
    flat = 0
    for d, n in enumerate(shape):
        if d not in dims:
            flat = flat * n + index[len(shape) - 1 - d]
    return flat
