"""Attention as its emitter takes it: values over tiles of rows and columns, and their sums.

A row is a query and a column a key, or the other way round; `blocks` are axes of both. Values have
at most one dimension of their own (matrices without axes two). Nothing here knows of graphs or
torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .program import Op, Tensor, Unsupported
from .tile import SCALAR, Span

# elements of a value's own dimension that are computed at a time. If values over both rows and
# columns are wide, columns are processed one by one, and there is room for more elements of each
CHUNK, WIDE_CHUNK = 64, 256
COLUMN_SUMS = ("column_sum", "column_logsumexp")
# the least side of a matrix product
MIN_WIDTH = 16


@dataclass(frozen=True)
class Store:
    """A value that is stored. `kind` is "row" (summed over columns, one per row), "tile" (summed
    over rows too, one per program) or "element" (one per row and column)."""

    op: str
    tensor: Tensor
    kind: str


@dataclass(frozen=True)
class Top:
    """The `count` best columns of each row by the score `op`. Their scores go to `best` and their
    positions to `places`, in no order; with too few columns, to the first of each list."""

    op: str
    count: int
    best: Tensor
    places: Tensor

    @property
    def kept(self) -> Span:
        """The span of the list in a tile."""
        return Span(0, self.count, 1 << (self.count - 1).bit_length())


@dataclass(frozen=True)
class Picks:
    """Columns that are positions along an `axis`, as an operation `op` reads them: tensors over the
    axis are read at these positions."""

    axis: str
    op: str


@dataclass(frozen=True)
class AttentionProgram:
    """One attention kernel; `ops.OP_KINDS` lists its operations.

    A kernel with one loop over columns stores `column_sum`, `column_max` and `column_argmax` only,
    and has no `column_logsumexp`. See `attention.hops` for kernels with several loops. With an
    `online_softmax`, column sums are divided by the sum of weights, and the log-sum-exp of the
    scores is stored to `peak`. With `top`, the kernel finds the best columns of each row; with
    `picks`, its columns are those that were found.
    """

    name: str
    title: str
    blocks: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    stores: tuple[Store, ...]
    peak: Tensor | None = None
    top: Top | None = None
    picks: Picks | None = None

    @property
    def sizes(self) -> tuple[str, ...]:
        """The axes whose lengths a launch gives."""
        used = {a for t in self.outputs for a in t.axes} | {a for t in self.tensors for a in t.axes}
        used |= {op.attrs["axis"] for op in self.ops if op.kind in ("size", "index")}
        return tuple(dict.fromkeys((*self.blocks, *self.rows, *self.columns, *sorted(used))))

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The tensors that are written, in the order of the arguments."""
        peak = () if self.peak is None else (self.peak,)
        top = () if self.top is None else (self.top.best, self.top.places)
        return (*(s.tensor for s in self.stores), *peak, *top)


def spans(count: int, chunk: int) -> tuple[Span, ...]:
    """`count` elements in chunks. The last chunk is a power of two as well, and may be too wide."""
    if count == 1:
        return (SCALAR,)
    found = []
    for start in range(0, count, chunk):
        valid = min(chunk, count - start)
        width = max(MIN_WIDTH, 1 << (valid - 1).bit_length())
        found.append(Span(start, valid, width))
    return tuple(found)


def sides(program: AttentionProgram) -> dict[str, tuple[bool, bool]]:
    """Which values vary over rows, and which over columns."""
    rows, columns = set(program.rows), set(program.columns)
    columns |= {program.picks.axis} if program.picks else set()
    kinds = {op.name: op.kind for op in program.ops}
    found: dict[str, tuple[bool, bool]] = {}
    for op in program.ops:
        if op.kind in ("read", "draw"):
            axes = set(op.attrs["tensor"].axes)
        elif op.kind == "index":
            axes = {op.attrs["axis"]}
        else:
            axes = set()
        # a sum over columns does not vary over them
        parts = [(found[a][0], found[a][1] and kinds[a] not in COLUMN_SUMS) for a in op.args]
        found[op.name] = _union([(bool(axes & rows), bool(axes & columns)), *parts])
    return found


def _union(parts: Iterable[tuple[bool, bool]]) -> tuple[bool, bool]:
    parts = list(parts)
    return any(p[0] for p in parts), any(p[1] for p in parts)


def letters(op: Op) -> tuple[str, str, str]:
    """The letters of both operands and of the result of an einsum."""
    left, out = op.attrs["sub"].split("->")
    a, b = left.split(",")
    return a, b, out


def matrix(op: Op) -> int | None:
    """The index of the operand that is a matrix, if the other one is a vector; else None.

    Raises Unsupported if the matrix is not multiplied by the vector as a matrix is.
    """
    a, b, out = letters(op)
    for k, (vector, square) in enumerate(((b, a), (a, b))):
        if len(vector) == 1 and len(square) == 2 and vector in square:
            if out != square.replace(vector, ""):
                raise Unsupported(
                    f"tiled attention kernels do not support the einsum '{op.attrs['sub']}' of "
                    f"'{op.name}'"
                )
            return k
    return None
