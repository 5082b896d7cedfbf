"""Maximum and argmax over columns, updated in the loop over them."""

from __future__ import annotations

from ..ir.contraction import Store
from ..ir.expression import Expr, Name, code, expr, where
from ..ir.program import Op, Unsupported
from ..ir.tile import SCALAR
from .builder import AttentionBuilder, Form, V
from .operations import INF, MAXIMUM, fitted, tile_of
from .stores import cast, store_row

NO_POSITION = 2**31 - 1


def store_argmax(b: AttentionBuilder, output: Store) -> None:
    """Write and store a `column_max` or `column_argmax`. Of equal values the first counts.

    A `column_max` of the same value as an earlier `column_argmax` reuses its maximum.
    """
    op = b.ops[output.op]
    note, source = f"keep {op.note}", op.args[0]

    def keep(found: Name) -> None:
        store_row(b, output.tensor, cast(b, expr(found), output.tensor), SCALAR, note)

    if op.kind == "column_max" and source in b.maxima:
        keep(b.maxima[source])
        return
    best = b.fresh(f"{op.name}_best")
    b.assign(best, code("tl.full([{}, 1], {}, ACC)", b.rows, INF), op.note, False)
    masked, largest = b.fresh(f"{op.name}_valid"), b.fresh(f"{op.name}_top")
    valid = code("{} & {}", V.COL_VALID, V.ROW_VALID)
    b.assign(masked, where(valid, _scalar(b, op), INF), op.note, True)
    b.assign(largest, code("tl.max({}, 1)[:, None]", masked), op.note, True)
    found = _argmax(b, op, masked, largest, best) if op.kind == "column_argmax" else best
    b.assign(best, code(MAXIMUM, best, largest), op.note, True)
    b.maxima[source] = best
    keep(found)
    b.drop_wide_tiles()


def _scalar(b: AttentionBuilder, op: Op) -> Expr:
    if b.elements(op.args[0]) != 1:
        raise Unsupported(f"'{op.name}' is the maximum of values with several elements")
    if len(b.program.columns) != 1:
        raise Unsupported(f"'{op.name}' is the maximum over several axes")
    return fitted(tile_of(b, op.args[0], 0), Form(True, True))


def _argmax(b: AttentionBuilder, op: Op, masked: Name, largest: Name, best: Name) -> Name:
    """Update the position of the maximum, if these columns have a larger value."""
    position, first, better = (b.fresh(f"{op.name}{x}") for x in ("", "_first", "_better"))
    equal = b.fresh(f"{op.name}_equal")
    b.assign(position, code("tl.zeros([{}, 1], tl.int64)", b.rows), op.note, False)
    is_largest = code("({} == {}) | ({} != {})", masked, largest, masked, masked)
    first_of = where(equal, V.COL, str(NO_POSITION))
    larger = "({} > {}) | (({} != {}) & ({} == {}))"
    for target, value in (
        (equal, is_largest),
        (first, code("tl.min({}, 1)[:, None]", first_of)),
        (better, code(larger, largest, best, largest, largest, best, best)),
        (position, where(better, first, position)),
    ):
        b.assign(target, value, op.note, True)
    return position
