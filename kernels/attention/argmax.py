"""The largest value of a contraction's columns, and its position, kept on the walk over them."""

from __future__ import annotations

import math

from ..codegen.builder import Line
from ..ir.contraction import Store, Tile
from ..ir.program import Op, Unsupported
from ..ir.tile import Span
from .builder import AttentionBuilder
from .operations import fitted, value

INF = 'float("-inf")'


def most(s: AttentionBuilder, store: Store) -> None:
    """The lines of a store whose operation is a `most` or a `place`; of equals the first counts.

    A `most` of what a `place` before it looks at is there already.
    """
    op = s.ops[store.op]
    if op.kind == "most" and op.args[0] in s.largest:
        _keep(s, store, s.largest[op.args[0]])
        return
    best = s.names.fresh(f"{op.name}_best")
    s.add(f"{best} = tl.full([{_rows(s)}, 1], {INF}, ACC)", op, False)
    masked, top = s.names.fresh(f"{op.name}_valid"), s.names.fresh(f"{op.name}_top")
    text = fitted(_one(s, op), Tile("", True, True, 1))
    s.add(f"{masked} = tl.where(valid & live, {text}, {INF})", op, True)
    s.add(f"{top} = tl.max({masked}, 1)[:, None]", op, True)
    kept = best
    if op.kind == "place":
        kept = _place(s, op, masked, top, best)
    s.add(f"{best} = tl.maximum({best}, {top}, propagate_nan=tl.PropagateNan.ALL)", op, True)
    s.largest[op.args[0]] = best
    _keep(s, store, kept)
    s.forget()


def _rows(s: AttentionBuilder) -> str:
    return "ROWS" if s.program.rows else "1"


def _one(s: AttentionBuilder, op: Op) -> Tile:
    if math.prod(s.ops[op.args[0]].shape) != 1:
        raise Unsupported(f"'{op.name}' is the largest of values of several numbers")
    if len(s.program.columns) != 1:
        raise Unsupported(f"'{op.name}' is the largest over several axes")
    return value(s, op.args[0], 0)


def _place(s: AttentionBuilder, op: Op, masked: str, top: str, best: str) -> str:
    """Lines that keep the position of the largest, which these columns may have."""
    place, first, better = (s.names.fresh(f"{op.name}{x}") for x in ("", "_first", "_better"))
    s.add(f"{place} = tl.zeros([{_rows(s)}, 1], tl.int64)", op, False)
    equal = s.names.fresh(f"{op.name}_equal")
    s.add(f"{equal} = ({masked} == {top}) | ({masked} != {masked})", op, True)
    s.add(f"{first} = tl.min(tl.where({equal}, col, {2**31 - 1}), 1)[:, None]", op, True)
    s.add(f"{better} = ({top} > {best}) | (({top} != {top}) & ({best} == {best}))", op, True)
    s.add(f"{place} = tl.where({better}, {first}, {place})", op, True)
    return place


def _keep(s: AttentionBuilder, store: Store, text: str) -> None:
    like, span = Tile("", bool(s.program.rows), False, 1), Span(0, 1, 1)
    pointer = s.pointers[store.tensor.name]
    address, mask = s.address(store.tensor, like, span, "part"), s.mask(like, span)
    line = f"tl.store({address}, {text}.to({pointer}.dtype.element_ty), mask={mask or 'True'})"
    s.after.append(Line(line, f"keep {s.ops[store.op].note}"))
