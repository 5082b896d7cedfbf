"""Stores of attention kernels: values at each row and column, and sums over columns."""

from __future__ import annotations

import math

from ..ir.contraction import Store
from ..ir.expression import Expr, code, store, where
from ..ir.program import Tensor
from ..ir.statement import do
from ..ir.tile import Span
from .builder import AttentionBuilder, Form, V
from .operations import fitted, tile_of


def store_elements(b: AttentionBuilder, output: Store) -> None:
    """Store a value at each row and column."""
    for k, span in enumerate(b.spans(output.op)):
        tile = tile_of(b, output.op, k)
        form = Form(bool(b.program.rows), bool(b.program.columns), span.width)
        rows, cols = "ROWS" if form.rows else "1", "COLS" if form.columns else "1"
        shape = f"{rows}, {cols}" if span.width == 1 else f"{form.shape}, {span.width}"
        value = code("tl.broadcast_to({}, [{}])", fitted(tile, form), shape)
        address, mask = b.address(output.tensor, form, span), b.mask(form, span)
        stored = _store(address, cast(b, value, output.tensor), mask)
        b.append(b.step, do(stored, b.ops[output.op].note))
    b.drop_wide_tiles()


def store_sum(b: AttentionBuilder, output: Store, value: Expr, span: Span) -> None:
    """Store a chunk of a sum: for each row, or one per program."""
    note = b.ops[output.op].note
    if output.kind == "row":
        store_row(
            b, output.tensor, cast(b, code("({})", value), output.tensor), span, f"keep {note}"
        )
        return
    count, cols = math.prod(output.tensor.shape), b.cols(span.width)
    whole = code("tl.sum({}, 0)[None, :]", where(V.ROW_VALID, value, "0.0"))
    at = code(
        "{} + {} * {} + {} + {}", b.pointer(output.tensor), V.PROGRAM, count, span.start, cols
    )
    b.evaluate(do(store(at, whole, code("{} < {}", cols, span.valid)), f"keep {note}"))


def store_row(b: AttentionBuilder, tensor: Tensor, value: Expr, span: Span, note: str) -> None:
    """Store a chunk of a value for each row, in this part of the columns."""
    form = Form(bool(b.program.rows), False, span.width)
    address = b.address(tensor, form, span, V.PART)
    b.evaluate(do(_store(address, value, b.mask(form, span)), note))


def _store(address: Expr, value: Expr, mask: Expr) -> Expr:
    return store(address, value, mask if mask.parts else "True")


def cast(b: AttentionBuilder, value: Expr, tensor: Tensor) -> Expr:
    return code("{}.to({})", value, b.element_type(tensor))
