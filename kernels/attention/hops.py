"""Emits kernels with several loops over columns, one program per example: memory in hops.

Each loop computes from what the loops before it have summed. Values of a program as a whole are
computed once, before the loop that first needs them. Values of columns are computed again in every
loop that needs them. Nothing is stored between loops.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.contraction import COLUMN_SUMS, AttentionProgram
from ..ir.expression import Name, code, expr, where
from ..ir.program import Op, Unsupported
from ..ir.tile import Tile
from .builder import AttentionBuilder, V
from .emit import AttentionSource, accumulate, logsumexp, normalized, source_of
from .kernel_text import ColumnLoop
from .operations import INF, column_scores, tile_of
from .stores import store_elements, store_sum


def loops_before(program: AttentionProgram) -> dict[str, int]:
    """Return how many loops each operation must wait for: a sum over columns takes one itself."""
    found: dict[str, int] = {}
    for op in program.ops:
        found[op.name] = max((found[a] for a in op.args), default=0) + (op.kind in COLUMN_SUMS)
    return found


def softmax_of(program: AttentionProgram) -> dict[str, str]:
    """Return the `online_softmax` on which each operation depends within its loop, if any."""
    kinds, found = {op.name: op.kind for op in program.ops}, dict[str, str]()
    for op in program.ops:
        used = [op.name] if op.kind == "online_softmax" else []
        used += [found[a] for a in op.args if a in found and kinds[a] not in COLUMN_SUMS]
        if used:
            found[op.name] = used[0]
    return found


def emit(program: AttentionProgram) -> AttentionSource:
    """Return the kernel of a program without rows.

    Raises Unsupported if tiled kernels cannot compute the program.
    """
    if program.rows:
        raise Unsupported("a kernel of several hops computes one row per program")
    b, before, soft = AttentionBuilder(program), loops_before(program), softmax_of(program)
    per_column = {s.op: s for s in program.stores if s.kind == "element"}
    last = max([before[op.name] for op in program.ops] + [before[n] + 1 for n in per_column])
    loops: list[ColumnLoop] = []
    for n in range(1, last + 1):
        sums = [op for op in program.ops if op.kind in COLUMN_SUMS and before[op.name] == n]
        written = _sums(b, sums, soft)
        for name in (name for name in per_column if before[name] == n - 1):
            store_elements(b, per_column[name])
        loops.append(ColumnLoop(b.before, b.step))
        _begin_loop(b)
        for op, variables in zip(sums, written, strict=True):
            _define_sum(b, op, variables, op.name in soft)
    for store in program.stores:
        if store.kind == "row":
            for k, span in enumerate(b.spans(store.op)):
                store_sum(b, store, tile_of(b, store.op, k).value, span)
    b.after = [*b.before, *b.after]
    return source_of(b, loops)


def _sums(b: AttentionBuilder, sums: Sequence[Op], soft: dict[str, str]) -> list[list[Name]]:
    """Write the sums of one loop and return their variables."""
    softmaxes = {soft[op.name] for op in sums if op.name in soft}
    if len(softmaxes) > 1:
        raise Unsupported("a loop over keys supports one softmax")
    scores = {b.ops[name].args[0] for name in softmaxes}
    return [_sum(b, op, soft, scores) for op in sums]


def _sum(b: AttentionBuilder, op: Op, soft: dict[str, str], scores: set[str]) -> list[Name]:
    """Write a sum. The softmax itself already computes the logsumexp of its scores."""
    if op.kind == "column_sum":
        return _total(b, op, soft.get(op.name))
    return [V.SCORE_MAX, V.WEIGHT_SUM] if op.args[0] in scores else _logsumexp(b, op)


def _begin_loop(b: AttentionBuilder) -> None:
    """Begin the next loop, in which values that vary over columns are computed again."""
    b.before, b.step = [], []
    summed = {op.name for op in b.program.ops if op.kind in COLUMN_SUMS}
    moving = [k for k in b.tiles if k[0] not in summed and b.sides.get(k[0], (False, False))[1]]
    for key in moving:
        del b.tiles[key]


def _total(b: AttentionBuilder, op: Op, softmax: str | None) -> list[Name]:
    """Write a sum over columns, weighted by a softmax that is computed online."""
    variables = []
    if softmax is not None:
        tile_of(b, softmax, 0)
    for k, span in enumerate(b.spans(op.name)):
        acc = b.chunk_name(op, k)
        b.assign(acc, code("tl.zeros([1, {}], ACC)", span.width), op.note, False)
        accumulate(b, op, acc, k, span, softmax is not None)
        variables.append(acc)
    b.drop_wide_tiles()
    return variables


def _logsumexp(b: AttentionBuilder, op: Op) -> list[Name]:
    """Write the logsumexp of scores, relative to the largest score so far."""
    score = column_scores(b, op.args[0]).value
    suffixes = ("max", "sum", "valid", "new_max", "safe_max")
    largest, total, masked, new, safe = (b.fresh(f"{op.name}_{x}") for x in suffixes)
    b.assign(largest, code("tl.full([1, 1], {}, ACC)", INF), op.note, False)
    b.assign(total, expr("tl.zeros([1, 1], ACC)"), op.note, False)
    weights = code("tl.sum(tl.exp({} - {}), 1)[:, None]", masked, safe)
    for target, value in (
        (masked, where(V.COL_VALID, score, INF)),
        (new, code("tl.maximum({}, tl.max({}, 1)[:, None])", largest, masked)),
        (safe, where(code("{} == {}", new, INF), "0.0", new)),
        (total, code("{} * tl.exp({} - {}) + {}", total, largest, safe, weights)),
        (largest, expr(new)),
    ):
        b.assign(target, value, op.note, True)
    return [largest, total]


def _define_sum(b: AttentionBuilder, op: Op, variables: list[Name], weighted: bool) -> None:
    """Define the value of a sum for the loops after its own."""
    if op.kind == "column_sum":
        for k, (name, span) in enumerate(zip(variables, b.spans(op.name), strict=True)):
            if weighted:
                b.assign(name, normalized(name), op.note, False)
            b.tiles[op.name, k, False] = Tile(expr(name), width=span.width)
        return
    largest, total = variables
    name = b.fresh(op.name)
    b.assign(name, logsumexp(largest, total), op.note, False)
    b.tiles[op.name, 0, False] = Tile(expr(name))
