"""The operations of a contraction's kernel, chunk by chunk, each written when it is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from ..codegen.builder import KINDS, PRELUDE, Line
from ..ir.contraction import Tile, letters, matrix
from ..ir.printer import bare, exact, literal
from ..ir.program import Op, Unsupported
from ..ir.tile import Span
from .builder import AttentionBuilder


def value(s: AttentionBuilder, name: str, k: int, raw: bool = False) -> Tile:
    """Chunk `k` of a value. `raw`: as it lies in memory, for matrix products."""
    op = s.ops[name]
    raw = raw and op.kind == "read" and op.dtype == "float"
    if (name, k, raw) not in s.made:
        if op.kind not in WRITERS:
            raise Unsupported(f"'{name}' is a '{op.kind}', which tiles do not have")
        found = WRITERS[op.kind](s, op, k) if not raw else _loaded(s, op, k)
        s.made[name, k, raw] = found
    return s.made[name, k, raw]


def _loaded(s: AttentionBuilder, op: Op, k: int) -> Tile:
    span = s.spans(op.name)[k]
    like = Tile("", *s.sides[op.name], span.width)
    return s.put(op, k, s.load(op.attrs["tensor"], like, span), like, raw=True)


def _read(s: AttentionBuilder, op: Op, k: int) -> Tile:
    if len(op.shape) > 1:
        raise Unsupported(f"'{op.name}' is a matrix, and used otherwise than in products")
    if op.dtype == "float":
        made = value(s, op.name, k, raw=True)
        return s.put(op, k, f"{made.text}.to(ACC)", made)
    span = s.spans(op.name)[k]
    like = Tile("", *s.sides[op.name], span.width)
    return s.put(op, k, s.load(op.attrs["tensor"], like, span), like)


def _draw(s: AttentionBuilder, op: Op, k: int) -> Tile:
    """Random numbers, each by a seed and its place in the tensor that they would fill: the same in
    all kernels, whatever their tiles."""
    if math.prod(op.shape) != 1 or op.attrs["law"] != "dropout":
        raise Unsupported(f"'{op.name}' is noise of a kind that tiles do not draw")
    tensor = op.attrs["tensor"]
    like = Tile("", *s.sides[op.name], 1)
    seed = s.names.fresh(f"{op.name}_seed")
    s.add(f"{seed} = tl.load({s.pointers[tensor.name]})", op, False)
    at = s.offset(tensor, like, Span(0, 1, 1))
    return s.put(op, k, f"dropout({seed}, {at}, {op.attrs['p']!r}, ACC)", like)


def _index(s: AttentionBuilder, op: Op, k: int) -> Tile:
    axis = op.attrs["axis"]
    rows, columns = s.sides[op.name]
    text = s.place(axis)
    return Tile(text if rows or columns else f"tl.full([1, 1], {text}, tl.int64)", rows, columns, 1)


def _size(s: AttentionBuilder, op: Op, k: int) -> Tile:
    many = s.names.length(op.attrs["axis"])
    return Tile(f"tl.full([1, 1], {many}, tl.int64)", False, False, 1)


def _const(s: AttentionBuilder, op: Op, k: int) -> Tile:
    text = f"tl.full([1, 1], {literal(op.attrs['value'], op.dtype)}, {KINDS[op.dtype]})"
    return Tile(text, False, False, 1)


def _point(s: AttentionBuilder, op: Op, k: int) -> Tile:
    like, texts = lined_up(s, op, op.args, k)
    return s.put(op, k, bare(op.attrs["template"].format(*texts)), like)


def lined_up(s: AttentionBuilder, op: Op, args: tuple[str, ...], k: int) -> tuple[Tile, list[str]]:
    """Operands as they broadcast against each other, and the form of what they make."""
    template = op.attrs.get("template", "")
    tiles: list[Tile | str] = []
    for arg in args:
        if s.ops[arg].kind == "const" and template:
            tiles.append(_number(s.ops[arg], op, template))
            continue
        one = len(s.spans(arg)) == 1 and math.prod(s.ops[arg].shape) == 1
        tiles.append(value(s, arg, 0 if one else k))
    width = max((t.width for t in tiles if isinstance(t, Tile)), default=1)
    like = Tile("", *s.sides[op.name], width)
    return like, [t if isinstance(t, str) else fitted(t, like) for t in tiles]


def _number(const: Op, op: Op, template: str) -> str:
    """A number beside tiles: bare between operators, where float32 has it exactly."""
    kind = "float" if op.dtype == "float" else const.dtype
    text = literal(const.attrs["value"], kind)
    if exact(const.attrs["value"]) and "(" not in template.lstrip("("):
        return text
    return f"tl.full([1, 1], {text}, {KINDS[kind]})"


def fitted(tile: Tile, like: Tile) -> str:
    """A tile as it broadcasts to another form."""
    if like.width == 1:
        return tile.text
    if not like.both:
        return f"tl.trans({tile.text})" if tile.width == 1 and tile.columns else tile.text
    if tile.width == 1:
        return f"({tile.text})[:, :, None]"
    if tile.both:
        return tile.text
    return f"({tile.text})[None, :, :]" if tile.columns else f"({tile.text})[:, None, :]"


def _expand(s: AttentionBuilder, op: Op, k: int) -> Tile:
    return value(s, op.args[0], 0)


def _reduce(s: AttentionBuilder, op: Op, k: int) -> Tile:
    """The sum, or the largest, of all of a value's own numbers."""
    join = "({0} + {1})" if op.kind == "sum" else MAXIMUM
    text = ""
    for j, span in enumerate(s.spans(op.args[0])):
        part = across(s, value(s, op.args[0], j), span, op.kind)
        text = join.format(text, part) if text else part
    made = s.put(op, k, bare(text), Tile("", *s.sides[op.name], 1))
    s.forget()
    return made


MAXIMUM = "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)"


def across(s: AttentionBuilder, tile: Tile, span: Span, kind: str) -> str:
    """A chunk's own numbers as one: summed, or the largest."""
    if tile.width == 1:
        return f"({tile.text} * {span.valid})" if kind == "sum" and span.valid > 1 else tile.text
    text = within(s, tile, span, "0.0" if kind == "sum" else 'float("-inf")')
    if tile.both:
        return f"tl.{kind}({text}, 2)"
    side = "[None, :]" if tile.columns else "[:, None]"
    return f"tl.{kind}({text}, 1){side}"


def within(s: AttentionBuilder, tile: Tile, span: Span, none: str = "0.0") -> str:
    """A tile with what is beyond its value's own numbers put to `none`."""
    if tile.width == 1 or span.valid == span.width:
        return tile.text
    column = s.cols(tile.width)
    column = f"{column}[None, :, :]" if tile.both else column
    return f"tl.where({column} < {span.valid}, {tile.text}, {none})"


def _product(s: AttentionBuilder, op: Op, k: int) -> Tile:
    which = matrix(op)
    if which is not None:
        return _by_matrix(s, op, which, k)
    a, b, out = letters(op)
    if max(len(a), len(b), len(out)) > 1:
        raise Unsupported(f"'{op.name}' is a product of a kind that tiles do not have")
    if not (set(a + b) - set(out)):
        like, texts = lined_up(s, op, op.args, k)
        return s.put(op, k, f"{texts[0]} * {texts[1]}", like)
    return _inner(s, op, k)


def _inner(s: AttentionBuilder, op: Op, k: int) -> Tile:
    """Σ over the numbers of two values: of a query and a key, a matrix product."""
    left, right = (s.sides[i] for i in op.args)
    across_both = (left, right) in (((True, False), (False, True)), ((False, True), (True, False)))
    wide = all(math.prod(s.ops[i].shape) > 1 for i in op.args)
    like = Tile("", *s.sides[op.name], 1)
    if across_both and wide and not s.wide:
        row, column = op.args if left[0] else op.args[::-1]
        text = "tl.zeros([ROWS, COLS], ACC)"
        for j, span in enumerate(s.spans(row)):
            x, y = (operand(s, i, j, span) for i in (row, column))
            text = f"product({x}, tl.trans({y}), {text}, PRECISION, UPCAST)"
        return s.put(op, k, text, like)
    longest = max(op.args, key=lambda i: math.prod(s.ops[i].shape))
    parts = []
    for j, span in enumerate(s.spans(longest)):
        form, texts = lined_up(s, op, op.args, j)
        tile = Tile(f"{texts[0]} * {texts[1]}", form.rows, form.columns, form.width)
        parts.append(across(s, tile, span, "sum"))
    made = s.put(op, k, " + ".join(parts), like)
    s.forget()
    return made


def widened(tile: Tile, span: Span) -> Tile:
    """A tile in its full width, where one number stands for all of it."""
    if tile.width == span.width:
        return tile
    places = {(True, True): "ROWS, COLS", (True, False): "ROWS", (False, True): "COLS"}
    like = Tile("", tile.rows, tile.columns, span.width)
    shape = places.get((tile.rows, tile.columns), "1")
    text = f"tl.broadcast_to({fitted(tile, like)}, [{shape}, {span.width}])"
    return Tile(text, tile.rows, tile.columns, span.width)


def operand(s: AttentionBuilder, name: str, k: int, span: Span) -> str:
    """A chunk as a matrix product takes it: in the dtype of what is read, zero beyond its end."""
    tile = value(s, name, k, raw=True)
    if s.ops[name].kind == "read":
        return tile.text
    tile = widened(tile, span)
    return f"{within(s, tile, span)}.to(KIND)"


def _by_matrix(s: AttentionBuilder, op: Op, which: int, k: int) -> Tile:
    """A vector at each place times a matrix that is the same for all."""
    vector, square = op.args[1 - which], op.args[which]
    rows, columns = s.sides[vector]
    if s.ops[square].kind != "read" or s.ops[square].attrs["tensor"].axes:
        raise Unsupported(f"'{op.name}' multiplies by a matrix that is no weight")
    out = s.spans(op.name)[k]
    if not (rows or columns):
        return _single(s, op, which, k)
    height = {(True, True): "ROWS * COLS", (True, False): "ROWS", (False, True): "COLS"}
    size = height[rows, columns]
    text = f"tl.zeros([{size}, {out.width}], ACC)"
    for j, span in enumerate(s.spans(vector)):
        tile = value(s, vector, j)
        flat = flattened(s, tile, span, size)
        weight = _square(s, op, which, j, span, k, out)
        text = f"product({flat}, {weight}, {text}, PRECISION, UPCAST)"
    if rows and columns:
        text = f"tl.reshape({text}, [ROWS, COLS, {out.width}])"
    return s.put(op, k, text, Tile("", rows, columns, out.width))


def _single(s: AttentionBuilder, op: Op, which: int, k: int) -> Tile:
    """A vector of the program's own times a matrix: matrix units take 16 at once, and are left."""
    vector, out, parts = op.args[1 - which], s.spans(op.name)[k], []
    for j, span in enumerate(s.spans(vector)):
        tile = widened(value(s, vector, j), span)
        weight = _square(s, op, which, j, span, k, out)
        parts.append(f"tl.sum(tl.trans({within(s, tile, span)}) * {weight}.to(ACC), 0)[None, :]")
    return s.put(op, k, " + ".join(parts), Tile("", False, False, out.width))


def flattened(s: AttentionBuilder, tile: Tile, span: Span, size: str) -> str:
    """A tile as a matrix of one place a row, in the dtype of matrix products."""
    tile = widened(tile, span)
    text = within(s, tile, span)
    return (
        f"tl.reshape({text}, [{size}, {span.width}]).to(KIND)" if tile.both else f"{text}.to(KIND)"
    )


def _square(s: AttentionBuilder, op: Op, which: int, j: int, span: Span, k: int, out: Span) -> str:
    """A chunk of a matrix, [vector, result], loaded before the walk."""
    name = op.args[which]
    key = (name, letters(op)[which], letters(op)[2], j, k)
    if key not in s.squares:
        tensor = s.ops[name].attrs["tensor"]
        after = letters(op)[which].index(letters(op)[2]) == 1
        steps = (tensor.shape[1], 1) if after else (1, tensor.shape[1])
        rows, cols = s.deep(span.width), s.cols(out.width)
        at = f"({span.start} + {rows}) * {steps[0]} + ({out.start} + {cols}) * {steps[1]}"
        mask = f"({rows} < {span.valid}) & ({cols} < {out.valid})"
        variable = s.names.fresh(f"{name}_{j}_{k}")
        pointer = s.pointers[tensor.name]
        s.add(f"{variable} = tl.load({pointer} + {at}, mask={mask}, other=0.0)", s.ops[name], False)
        s.squares[key] = variable
    return s.squares[key]


def _soft(s: AttentionBuilder, op: Op, k: int) -> Tile:
    """The weights of these columns against the largest score so far."""
    score = value(s, op.args[0], 0)
    if not score.columns:
        raise Unsupported("the scores are the same for all columns")
    note, rows = op.note, "ROWS"
    s.before += [
        Line(f'top = tl.full([{rows}, 1], float("-inf"), ACC)', f"{note}: largest score so far"),
        Line(f"share = tl.zeros([{rows}, 1], ACC)", f"{note}: sum of weights so far"),
    ]
    s.used |= set(re.findall(r"\b[a-z0-9]+(?=\()", score.text)) & set(PRELUDE)
    inf = 'float("-inf")'
    masked = s.names.fresh(f"{op.args[0]}_valid")
    s.step += [
        Line(f"{masked} = tl.where(valid & live, {score.text}, {inf})", f"{note}: softmax, so far"),
        Line(f"best = tl.maximum(top, tl.max({masked}, 1)[:, None])", note + ": softmax, so far"),
        Line(f"floor = tl.where(best == {inf}, 0.0, best)", note + ": softmax, so far"),
        Line("shrink = tl.exp(top - floor)", note + ": softmax, so far"),
        Line(f"weights = tl.exp({masked} - floor)", note + ": softmax, so far"),
        Line("share = share * shrink + tl.sum(weights, 1)[:, None]", note + ": softmax, so far"),
        Line("top = best", note + ": softmax, so far"),
    ]
    s.made[op.name, 0, False] = Tile("weights", *s.sides[op.name], 1)
    return s.made[op.name, 0, False]


WRITERS: dict[str, Callable[[AttentionBuilder, Op, int], Tile]] = {
    "read": _read,
    "draw": _draw,
    "const": _const,
    "index": _index,
    "size": _size,
    "point": _point,
    "expand": _expand,
    "sum": _reduce,
    "max": _reduce,
    "product": _product,
    "soft": _soft,
}
