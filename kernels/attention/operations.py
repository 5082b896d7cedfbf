"""The operations of attention kernels: tiles of values, chunk by chunk, written when first used."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..codegen.builder import KINDS
from ..ir.contraction import letters, matrix
from ..ir.expression import (
    Expr,
    Name,
    bare,
    broadcast,
    call,
    code,
    expr,
    functions,
    join,
    load,
    where,
)
from ..ir.printer import exact, literal
from ..ir.program import Op, Unsupported
from ..ir.tile import SCALAR, Span, Tile
from .builder import AttentionBuilder, Form, V

INF = 'float("-inf")'
MAXIMUM = "tl.maximum({}, {}, propagate_nan=tl.PropagateNan.ALL)"


def tile_of(b: AttentionBuilder, name: str, k: int, raw: bool = False) -> Tile:
    """Return chunk `k` of a value; `raw` as it lies in memory, as operand of a matmul.

    Raises Unsupported if tiles do not have the value's operation.
    """
    op = b.ops[name]
    raw = raw and op.kind == "read" and op.dtype == "float"
    if (name, k, raw) not in b.tiles:
        if op.kind not in WRITERS:
            raise Unsupported(f"tiled attention kernels do not support '{op.kind}', as of '{name}'")
        found = WRITERS[op.kind](b, op, k) if not raw else _load(b, op, k, raw=True)
        b.tiles[name, k, raw] = found
    return b.tiles[name, k, raw]


def _load(b: AttentionBuilder, op: Op, k: int, raw: bool = False) -> Tile:
    span = b.spans(op.name)[k]
    form = b.form(op.name, span.width)
    return b.define(op, k, b.load(op.attrs["tensor"], form, span), form, raw)


def _read(b: AttentionBuilder, op: Op, k: int) -> Tile:
    if len(op.shape) > 1:
        raise Unsupported(f"the matrix '{op.name}' is used other than as an operand of a matmul")
    if op.dtype != "float":
        return _load(b, op, k)
    raw = tile_of(b, op.name, k, raw=True)
    return b.define(op, k, code("{}.to(ACC)", raw.value), form_of(raw))


def _draw(b: AttentionBuilder, op: Op, k: int) -> Tile:
    """Draw random numbers, each by a seed and its index in the tensor that they would fill.

    They are the same in all kernels, whatever their tiles.
    """
    if math.prod(op.shape) != 1 or op.attrs["law"] != "dropout":
        raise Unsupported(
            f"tiled attention kernels draw scalar dropout only, and '{op.name}' is other noise"
        )
    tensor, form = op.attrs["tensor"], b.form(op.name)
    seed = b.fresh(f"{op.name}_seed")
    b.assign(seed, load(b.pointer(tensor)), op.note, False)
    at = b.offset(tensor, form, SCALAR)
    return b.define(op, k, call("dropout", seed, at, repr(op.attrs["p"]), "ACC"), form)


def _index(b: AttentionBuilder, op: Op, k: int) -> Tile:
    position, form = b.position(op.attrs["axis"]), b.form(op.name)
    full = code("tl.full([1, 1], {}, tl.int64)", position)
    return form.tile(position if form.rows or form.columns else full)


def _size(b: AttentionBuilder, op: Op, k: int) -> Tile:
    return Tile(code("tl.full([1, 1], {}, tl.int64)", b.length(op.attrs["axis"])))


def _const(b: AttentionBuilder, op: Op, k: int) -> Tile:
    return Tile(_full(literal(op.attrs["value"], op.dtype), op.dtype))


def _full(text: str, kind: str) -> Expr:
    return code("tl.full([1, 1], {}, {})", text, KINDS[kind])


def _pointwise(b: AttentionBuilder, op: Op, k: int) -> Tile:
    form, operands = aligned(b, op, op.args, k)
    template = op.attrs["template"]
    return b.define(op, k, bare(code(template, *operands, calls=functions(template))), form)


def aligned(b: AttentionBuilder, op: Op, args: tuple[str, ...], k: int) -> tuple[Form, list[Expr]]:
    """Return operands so that they broadcast against each other, and the form of the result."""
    template = op.attrs.get("template", "")
    tiles: list[Tile | Expr] = []
    for arg in args:
        if b.ops[arg].kind == "const" and template:
            tiles.append(_number(b.ops[arg], op, template))
            continue
        scalar = len(b.spans(arg)) == 1 and b.elements(arg) == 1
        tiles.append(tile_of(b, arg, 0 if scalar else k))
    form = b.form(op.name, max((t.width for t in tiles if isinstance(t, Tile)), default=1))
    return form, [fitted(t, form) if isinstance(t, Tile) else t for t in tiles]


def _number(const: Op, op: Op, template: str) -> Expr:
    """Return a constant next to tiles: a literal between operators if exact in float32."""
    kind = "float" if op.dtype == "float" else const.dtype
    text = literal(const.attrs["value"], kind)
    if exact(const.attrs["value"]) and "(" not in template.lstrip("("):
        return expr(text)
    return _full(text, kind)


def form_of(tile: Tile) -> Form:
    """Return the form of a tile."""
    return Form(tile.rows, tile.columns, tile.width)


def fitted(tile: Tile, form: Form) -> Expr:
    """Return a tile so that it broadcasts to another form."""
    value = tile.value
    if form.width == 1:
        return value
    if not form.both:
        return code("tl.trans({})", value) if tile.width == 1 and tile.columns else value
    if tile.width == 1:
        return code("({})[:, :, None]", value)
    if tile.both:
        return value
    return code("({})[None, :, :]" if tile.columns else "({})[:, None, :]", value)


def _expand(b: AttentionBuilder, op: Op, k: int) -> Tile:
    return tile_of(b, op.args[0], 0)


def _reduce(b: AttentionBuilder, op: Op, k: int) -> Tile:
    """Write the sum, or the maximum, of all of a value's own elements."""
    combine = "({} + {})" if op.kind == "sum" else MAXIMUM
    value: Expr | None = None
    for j, span in enumerate(b.spans(op.args[0])):
        part = reduced(b, tile_of(b, op.args[0], j), span, op.kind)
        value = part if value is None else code(combine, value, part)
    assert value is not None
    tile = b.define(op, k, bare(value), b.form(op.name))
    b.drop_wide_tiles()
    return tile


def reduced(b: AttentionBuilder, tile: Tile, span: Span, kind: str) -> Expr:
    """Return the "sum" or "max" of a chunk's own elements."""
    if tile.width == 1:
        repeated = kind == "sum" and span.valid > 1
        return code("({} * {})", tile.value, span.valid) if repeated else tile.value
    value = padded(b, tile, span, "0.0" if kind == "sum" else INF)
    over = code("nan_max", calls=("nan_max",)) if kind == "max" else expr("tl.sum")
    if tile.both:
        return code("{}({}, 2)", over, value)
    return code("{}({}, 1){}", over, value, "[None, :]" if tile.columns else "[:, None]")


def padded(b: AttentionBuilder, tile: Tile, span: Span, padding: str = "0.0") -> Expr:
    """Return a tile with `padding` in the columns beyond its value's own elements."""
    if tile.width == 1 or span.valid == span.width:
        return tile.value
    return where(code("{} < {}", b.column(tile), span.valid), tile.value, padding)


def _einsum(b: AttentionBuilder, op: Op, k: int) -> Tile:
    which = matrix(op)
    if which is not None:
        return _by_matrix(b, op, which, k)
    left, right, out = letters(op)
    if max(len(left), len(right), len(out)) > 1:
        raise Unsupported(
            f"tiled attention kernels do not support the einsum '{op.attrs['sub']}' of '{op.name}'"
        )
    if not (set(left + right) - set(out)):
        form, operands = aligned(b, op, op.args, k)
        return b.define(op, k, join(" * ", operands), form)
    return _inner_product(b, op, k)


def _inner_product(b: AttentionBuilder, op: Op, k: int) -> Tile:
    """Write Σ over the elements of two values; of a query and a key, it is a matmul."""
    left, right = (b.sides[i] for i in op.args)
    row_by_column = {left, right} == {(True, False), (False, True)}
    form = b.form(op.name)
    if row_by_column and all(b.elements(i) > 1 for i in op.args) and not b.wide:
        row, column = op.args if left[0] else op.args[::-1]
        value = expr("tl.zeros([ROWS, COLS], ACC)")
        for j, span in enumerate(b.spans(row)):
            x, y = (matmul_operand(b, i, j, span) for i in (row, column))
            value = matmul(x, code("tl.trans({})", y), value)
        return b.define(op, k, value, form)
    longest = max(op.args, key=b.elements)
    parts = []
    for j, span in enumerate(b.spans(longest)):
        terms, operands = aligned(b, op, op.args, j)
        parts.append(reduced(b, terms.tile(join(" * ", operands)), span, "sum"))
    tile = b.define(op, k, join(" + ", parts), form)
    b.drop_wide_tiles()
    return tile


def matmul(left: Expr, right: Expr, added: Expr) -> Expr:
    """Return added + left @ right."""
    return call("matmul", left, right, added, "PRECISION", "UPCAST")


def widened(tile: Tile, span: Span) -> Tile:
    """Return a tile in the full width of a span, if one element stands for all of it."""
    if tile.width == span.width:
        return tile
    form = Form(tile.rows, tile.columns, span.width)
    return form.tile(broadcast(fitted(tile, form), [form.shape, span.width]))


def matmul_operand(b: AttentionBuilder, name: str, k: int, span: Span) -> Expr:
    """Return a chunk as a matmul needs it: in the dtype of what is read, zero beyond its end."""
    tile = tile_of(b, name, k, raw=True)
    if b.ops[name].kind == "read":
        return tile.value
    return to_kind(padded(b, widened(tile, span), span))


def to_kind(value: Expr) -> Expr:
    """Return a value in the dtype of what is read."""
    return code("{}.to({})", value, V.KIND)


def _by_matrix(b: AttentionBuilder, op: Op, which: int, k: int) -> Tile:
    """Write a vector at each position times a matrix that is the same for all positions."""
    vector, factor = op.args[1 - which], op.args[which]
    rows, columns = b.sides[vector]
    if b.ops[factor].kind != "read" or b.ops[factor].attrs["tensor"].axes:
        raise Unsupported(f"'{op.name}' multiplies by a matrix that is not a weight")
    out = b.spans(op.name)[k]
    if not (rows or columns):
        return _single_by_matrix(b, op, which, k)
    height = Form(rows, columns).shape.replace(", ", " * ")
    value = code("tl.zeros([{}, {}], ACC)", height, out.width)
    for j, span in enumerate(b.spans(vector)):
        flat = flattened(b, tile_of(b, vector, j), span, height)
        value = matmul(flat, expr(_matrix_tile(b, op, which, (j, span), (k, out))), value)
    if rows and columns:
        value = code("tl.reshape({}, [ROWS, COLS, {}])", value, out.width)
    return b.define(op, k, value, Form(rows, columns, out.width))


def _single_by_matrix(b: AttentionBuilder, op: Op, which: int, k: int) -> Tile:
    """Write one vector per program times a matrix, without matrix units: they need 16 rows."""
    vector, out, parts = op.args[1 - which], b.spans(op.name)[k], []
    for j, span in enumerate(b.spans(vector)):
        tile = widened(tile_of(b, vector, j), span)
        weight = _matrix_tile(b, op, which, (j, span), (k, out))
        value = padded(b, tile, span)
        parts.append(code("tl.sum(tl.trans({}) * {}.to(ACC), 0)[None, :]", value, weight))
    return b.define(op, k, join(" + ", parts), Form(False, False, out.width))


def flattened(b: AttentionBuilder, tile: Tile, span: Span, height: str) -> Expr:
    """Return a tile as a matrix with one row per position, in the dtype of matmuls."""
    value = padded(b, widened(tile, span), span)
    if tile.both:
        value = code("tl.reshape({}, [{}, {}])", value, height, span.width)
    return to_kind(value)


def _matrix_tile(
    b: AttentionBuilder, op: Op, which: int, vector: tuple[int, Span], out: tuple[int, Span]
) -> Name:
    """Return a chunk of a weight matrix, [vector, result], loaded before the loop.

    `vector` and `out` are the numbers and spans of the chunks that it connects.
    """
    (j, span), (k, columns), name = vector, out, op.args[which]
    axes, result = letters(op)[which], letters(op)[2]
    key = (name, axes, result, j, k)
    if key not in b.matrix_tiles:
        tensor = b.ops[name].attrs["tensor"]
        steps = (tensor.shape[1], 1) if axes.index(result) == 1 else (1, tensor.shape[1])
        down, across = b.down(span.width), b.cols(columns.width)
        pointer = b.pointer(tensor)
        template = "{} + ({} + {}) * {} + ({} + {}) * {}"
        at = code(template, pointer, span.start, down, steps[0], columns.start, across, steps[1])
        mask = code("({} < {}) & ({} < {})", down, span.valid, across, columns.valid)
        variable = b.fresh(f"{name}_{j}_{k}")
        b.assign(variable, load(at, mask), b.ops[name].note, False)
        b.matrix_tiles[key] = variable
    return b.matrix_tiles[key]


def column_scores(b: AttentionBuilder, name: str) -> Tile:
    """Return scores that must differ between columns. Raises Unsupported if they do not."""
    score = tile_of(b, name, 0)
    if not score.columns:
        raise Unsupported("the scores are the same for all columns")
    return score


def _online_softmax(b: AttentionBuilder, op: Op, k: int) -> Tile:
    """Write the weights of these columns relative to the largest score so far."""
    score, note = column_scores(b, op.args[0]), f"{op.note}: softmax, so far"
    largest = code("tl.full([ROWS, 1], {}, ACC)", INF)
    b.assign(V.SCORE_MAX, largest, f"{op.note}: largest score so far", False)
    b.assign(
        V.WEIGHT_SUM, expr("tl.zeros([ROWS, 1], ACC)"), f"{op.note}: sum of weights so far", False
    )
    masked = b.fresh(f"{op.args[0]}_valid")
    valid = code("{} & {}", V.COL_VALID, V.ROW_VALID)
    for target, value in (
        (masked, where(valid, score.value, INF)),
        (V.NEW_MAX, code("tl.maximum({}, tl.max({}, 1)[:, None])", V.SCORE_MAX, masked)),
        (V.SAFE_MAX, where(code("{} == {}", V.NEW_MAX, INF), "0.0", V.NEW_MAX)),
        (V.RESCALE, code("tl.exp({} - {})", V.SCORE_MAX, V.SAFE_MAX)),
        (V.WEIGHTS, code("tl.exp({} - {})", masked, V.SAFE_MAX)),
        (
            V.WEIGHT_SUM,
            code("{} * {} + tl.sum({}, 1)[:, None]", V.WEIGHT_SUM, V.RESCALE, V.WEIGHTS),
        ),
        (V.SCORE_MAX, expr(V.NEW_MAX)),
    ):
        b.assign(target, value, note, True)
    return b.form(op.name).tile(V.WEIGHTS)


WRITERS: dict[str, Callable[[AttentionBuilder, Op, int], Tile]] = {
    "read": _read,
    "draw": _draw,
    "const": _const,
    "index": _index,
    "size": _size,
    "pointwise": _pointwise,
    "expand": _expand,
    "sum": _reduce,
    "max": _reduce,
    "einsum": _einsum,
    "online_softmax": _online_softmax,
}
