"""Emits attention kernels: a program computes one tile of rows in a loop over columns.

A row is a query and a column a key, or the other way round. Terms of scores stay in registers,
chunk by chunk. The softmax is computed online (Milakov and Gimelshein 2018, algorithm 3). The loop
may be split into parts, each a program of its own, whose results are merged afterwards. There are
no atomics: every program writes to locations of its own.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from ..feasibility.large_tiles import SMALL
from ..ir.contraction import AttentionProgram, Store, Top, letters
from ..ir.expression import Expr, Name, call, code, expr, join, store, where
from ..ir.program import Op, Tensor, Unsupported
from ..ir.source import KernelSource
from ..ir.statement import do
from ..ir.tile import SCALAR, Span, Tile
from .argmax import store_argmax
from .builder import AttentionBuilder, Form, V
from .kernel_text import ColumnLoop, kernel_text
from .operations import (
    INF,
    aligned,
    column_scores,
    flattened,
    matmul,
    matmul_operand,
    padded,
    tile_of,
    to_kind,
    widened,
)
from .stores import store_elements, store_row, store_sum


@dataclass(frozen=True)
class AttentionSource(KernelSource[AttentionProgram]):
    """The source of an attention kernel. `wide`: values vary over rows, columns and a width."""

    wide: bool


def emit(program: AttentionProgram) -> AttentionSource:
    """Return the kernel of a program with one loop over columns.

    Raises Unsupported if tiled kernels cannot compute the program.
    """
    b = AttentionBuilder(program)
    if program.picks is not None:
        tile_of(b, program.picks.op, 0)
    for output in program.stores:
        if b.ops[output.op].kind in ("column_max", "column_argmax"):
            store_argmax(b, output)
        elif output.kind == "element":
            store_elements(b, output)
        else:
            _store_sum(b, output)
    if program.peak is not None:
        _weights(b)
        _store_logsumexp(b, program.peak)
    if program.top is not None:
        _store_topk(b, program.top)
    return source_of(b, [ColumnLoop(b.before, b.step)])


def source_of(b: AttentionBuilder, loops: list[ColumnLoop]) -> AttentionSource:
    """Return the source of a finished kernel with these loops over columns."""
    p = b.program
    return AttentionSource(
        b.entry, kernel_text(b, loops), p, (*p.tensors, *p.outputs), p.sizes, b.wide
    )


def _weights(b: AttentionBuilder) -> None:
    """Write the softmax of the program."""
    tile_of(b, next(op.name for op in b.program.ops if op.kind == "online_softmax"), 0)


def _store_sum(b: AttentionBuilder, output: Store) -> None:
    """Store a sum over the columns for each row, or summed over the rows as well."""
    op = b.ops[output.op]
    if op.kind != "column_sum":
        raise Unsupported(f"'{op.name}' is stored for each row, but is not a sum over columns")
    if len(op.args) == 2 and len(letters(op)[2]) == 2:
        _store_outer_products(b, output, op)
        return
    weighted = b.program.peak is not None
    if weighted:
        _weights(b)
    for k, span in enumerate(b.spans(op.name)):
        acc = b.chunk_name(op, k)
        b.assign(acc, code("tl.zeros([{}, {}], ACC)", b.rows, span.width), op.note, False)
        accumulate(b, op, acc, k, span, weighted)
        store_sum(b, output, normalized(acc) if weighted else expr(acc), span)
    b.drop_wide_tiles()


def normalized(acc: Name) -> Expr:
    """Return a weighted sum divided by the sum of weights; 0 if there are none."""
    divisor = where(code("{} == 0", V.WEIGHT_SUM), "1.0", V.WEIGHT_SUM)
    return code("{} / {}", acc, divisor)


def accumulate(b: AttentionBuilder, op: Op, acc: Name, k: int, span: Span, weighted: bool) -> None:
    """Add the columns of a tile to a sum; a `weighted` one is first rescaled."""
    before = code("{} * {}", acc, V.RESCALE) if weighted else expr(acc)
    pair = _matmul_pair(b, op)
    if pair is None:
        value = code("{} + {}", before, _column_sum(_summand(b, op, k), bool(b.program.columns)))
        b.assign(acc, value, op.note, True)
        return
    scalar, vector = pair
    weight = tile_of(b, scalar, 0).value
    weight = weight if weighted and b.ops[scalar].kind == "online_softmax" else _existing(weight)
    factor = matmul_operand(b, vector, k, span)
    if b.ops[vector].kind != "read":
        factor = to_kind(where(V.COL_DOWN_VALID, factor, "0.0"))
    b.assign(acc, matmul(to_kind(weight), factor, before), op.note, True)


def _existing(value: Expr) -> Expr:
    return where(V.COL_VALID, value, "0.0")


def _matmul_pair(b: AttentionBuilder, op: Op) -> tuple[str, str] | None:
    """Return the operands of a sum that is a matmul, or None.

    They are a scalar over rows and columns, and a vector over columns.
    """
    if len(op.args) != 2 or not b.program.rows or b.wide:
        return None
    for scalar, vector in (op.args, op.args[::-1]):
        is_scalar = b.elements(scalar) == 1 and all(b.sides[scalar])
        if is_scalar and b.sides[vector] == (False, True) and b.elements(vector) > 1:
            return (scalar, vector) if letters(op)[2] else None
    return None


def _summand(b: AttentionBuilder, op: Op, k: int) -> Tile:
    """Return what is summed over columns."""
    if len(op.args) == 1:
        return tile_of(b, op.args[0], k)
    left, right, out = letters(op)
    if set(left + right) - set(out):
        return tile_of(b, b.product_terms(op).name, 0)
    form, operands = aligned(b, op, op.args, k)
    return form.tile(code("({})", join(" * ", operands)))


def _column_sum(tile: Tile, has_columns: bool) -> Expr:
    """Return the sum of a tile over the columns that exist."""
    if not tile.columns:
        if has_columns:
            raise Unsupported("a sum over columns of a value that is the same for all columns")
        return tile.value
    if tile.width == 1:
        return code("tl.sum({}, 1)[:, None]", _existing(tile.value))
    if tile.both:
        valid = code("{}[:, :, None]", V.COL_VALID)
        return code("tl.sum({}, 1)", where(valid, tile.value, "0.0"))
    return code("tl.sum({}, 0)[None, :]", where(V.COL_DOWN_VALID, tile.value, "0.0"))


def _store_outer_products(b: AttentionBuilder, output: Store, op: Op) -> None:
    """Store Σ over rows and columns of outer products of two vectors: the gradient of a weight."""
    left, right, out = letters(op)
    first, second = op.args if out == left + right else op.args[::-1]
    both = all(b.sides[first]) and all(b.sides[second])
    if out not in (left + right, right + left) or not both:
        raise Unsupported(
            f"tiled attention kernels do not sum products like '{op.attrs['sub']}' of '{op.name}'"
        )
    for chunks in itertools.product(enumerate(b.spans(first)), enumerate(b.spans(second))):
        _outer_product(b, output, op, (first, second), chunks)
        b.drop_wide_tiles()


def _outer_product(
    b: AttentionBuilder,
    output: Store,
    op: Op,
    vectors: tuple[str, str],
    chunks: tuple[tuple[int, Span], tuple[int, Span]],
) -> None:
    """Store Σ of outer products of a chunk of each of two vectors, in pieces of few rows."""
    flat = []
    for name, (k, span) in zip(vectors, chunks, strict=True):
        value = _existing_rows(b, tile_of(b, name, k), span)
        flat.append(b.fresh(f"{name}_flat"))
        b.assign(flat[-1], value, b.ops[name].note, True)
    (j, high), (k, span) = chunks
    for number, piece in enumerate(_pieces(high)):
        acc = b.fresh(f"{op.name}_{j}_{k}_{number}")
        b.assign(acc, code("tl.zeros([{}, {}], ACC)", piece.width, span.width), op.note, False)
        left = expr(flat[0])
        if piece.width < high.width:
            left = call("piece_of", left, str(number), str(high.width // piece.width))
        b.assign(acc, matmul(code("tl.trans({})", left), expr(flat[1]), expr(acc)), op.note, True)
        _store_matrix(b, output, acc, (piece, span), b.ops[vectors[1]].shape[0])


def _pieces(span: Span) -> list[Span]:
    """Return a span in pieces that may be the rows of a transposed left operand.

    With 64 rows, such matmuls are those that Triton is known to miscompile on Hopper, see
    `feasibility.large_tiles`.
    """
    width = min(span.width, SMALL)
    starts = range(0, span.valid, width)
    return [Span(span.start + i, min(width, span.valid - i), width) for i in starts]


def _store_matrix(
    b: AttentionBuilder, output: Store, acc: Name, spans: tuple[Span, Span], width: int
) -> None:
    """Store a chunk of a matrix, one per program."""
    high, span = spans
    down, cols, count = b.down(high.width), b.cols(span.width), math.prod(output.tensor.shape)
    template = "{} + {} * {} + ({} + {}) * {} + {} + {}"
    pointer = b.pointer(output.tensor)
    at = code(template, pointer, V.PROGRAM, count, high.start, down, width, span.start, cols)
    mask = code("({} < {}) & ({} < {})", down, high.valid, cols, span.valid)
    b.evaluate(do(store(at, acc, mask), b.ops[output.op].note))


def _existing_rows(b: AttentionBuilder, tile: Tile, span: Span) -> Expr:
    """Return a tile as a matrix with a row per row and column; zero where there is none."""
    tile = widened(tile, span)
    valid = code("({} & {})[:, :, None]", V.ROW_VALID, V.COL_VALID)
    value = where(valid, padded(b, tile, span), "0.0")
    whole = Span(0, span.width, span.width)
    return flattened(b, Form(True, True, span.width).tile(value), whole, "ROWS * COLS")


def logsumexp(largest: Name, total: Name) -> Expr:
    """Return a logsumexp from the largest score and the sum of weights relative to it."""
    return where(code("{} == 0", total), INF, code("{} + tl.log({})", largest, total))


def _store_logsumexp(b: AttentionBuilder, tensor: Tensor) -> None:
    """Store the log-sum-exp of the scores."""
    value = logsumexp(V.SCORE_MAX, V.WEIGHT_SUM)
    store_row(b, tensor, value, SCALAR, "log-sum-exp of the scores")


def _store_topk(b: AttentionBuilder, top: Top) -> None:
    """Store the best columns of each row, from lists that each tile of columns is merged into."""
    note, span = f"the {top.count} best of {b.ops[top.op].note}", top.kept
    lists = (V.BEST_SCORES, V.BEST_POSITIONS)
    b.assign(lists, call("empty_topk", b.rows, top.count, span.width, "ACC"), note, False)
    score = column_scores(b, top.op).value
    valid = code("{} & {}", V.COL_VALID, V.ROW_VALID) if b.program.rows else expr(V.COL_VALID)
    b.assign(lists, call("merge_topk", *lists, score, V.COL, valid), note, True)
    for tensor, found in ((top.best, V.BEST_SCORES), (top.places, V.BEST_POSITIONS)):
        store_row(b, tensor, expr(found), span, note)
