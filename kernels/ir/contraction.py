"""A contraction as its emitter takes it: values over tiles of rows and columns, and their sums.

A row is a query and a column a key, or the other way round; `blocks` are axes of both. Values have
one dimension at most besides (matrices without axes two). Nothing here knows of graphs or torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .program import Op, Tensor, Unsupported
from .tile import SCALAR, Span

# numbers of a value's own that are computed at a time; where values over both rows and columns are
# wide, columns are taken one by one, and there is room for more of each
CHUNK, LONG = 64, 256
SUMMED = ("total", "lse")
# the least side of a matrix product
LEAST = 16


@dataclass(frozen=True)
class Store:
    """A value that is kept, by `kind`: "row", summed over columns, one for each row; "tile", summed
    over rows too, one for each program; "each", one for each row and column."""

    op: str
    tensor: Tensor
    kind: str


@dataclass(frozen=True)
class Top:
    """The `count` best columns of each row: `op` is their score. The scores go to `best`, where
    they are to `places`, in no order; where there are too few columns, the first of each list."""

    op: str
    count: int
    best: Tensor
    places: Tensor

    @property
    def kept(self) -> Span:
        """The list as it lies in a tile."""
        return Span(0, self.count, 1 << (self.count - 1).bit_length())


@dataclass(frozen=True)
class Picks:
    """Columns that are positions along an `axis`, which an operation `op` reads: tensors over the
    axis are read there."""

    axis: str
    op: str


@dataclass(frozen=True)
class AttentionProgram:
    """One kernel. Operations are those of `program.Op`, and besides

    kind      args     attrs
    soft      score    -: exp(score - largest so far), the weights of an online softmax
    expand    x        -: a number for each column of its own
    total     x | a, b sub: summed over columns, of one value, or of a product of two
    most      x        -: the largest over columns
    place     x        -: its position there
    lse       score    -: the logsumexp over columns

    Where there is one walk, `total`, `most` and `place` are only stored, and there is no `lse`; see
    `hops` for kernels of several. With `soft`, totals are divided by the sum of weights, and the
    scores' log-sum-exp is stored to `peak`. With `top`, the best columns are found; with `picks`,
    columns are what was found.
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
        """What is written, in the order of the arguments."""
        peak = () if self.peak is None else (self.peak,)
        top = () if self.top is None else (self.top.best, self.top.places)
        return (*(s.tensor for s in self.stores), *peak, *top)


def spans(count: int, chunk: int) -> tuple[Span, ...]:
    """`count` numbers in chunks; the last one is a power of two as well, and may be too wide."""
    if count == 1:
        return (SCALAR,)
    found = []
    for start in range(0, count, chunk):
        valid = min(chunk, count - start)
        width = max(LEAST, 1 << (valid - 1).bit_length())
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
        # what is summed over columns varies over them no more, for those who read it
        parts = [(found[a][0], found[a][1] and kinds[a] not in SUMMED) for a in op.args]
        found[op.name] = _union([(bool(axes & rows), bool(axes & columns)), *parts])
    return found


def _union(parts: Iterable[tuple[bool, bool]]) -> tuple[bool, bool]:
    parts = list(parts)
    return any(p[0] for p in parts), any(p[1] for p in parts)


def letters(op: Op) -> tuple[str, str, str]:
    """The dimensions of a product's operands and of itself."""
    left, out = op.attrs["sub"].split("->")
    a, b = left.split(",")
    return a, b, out


def matrix(op: Op) -> int | None:
    """Which operand of a product is a matrix that the other, a vector, is multiplied by."""
    a, b, out = letters(op)
    for k, (vector, square) in enumerate(((b, a), (a, b))):
        if len(vector) == 1 and len(square) == 2 and vector in square:
            if out != square.replace(vector, ""):
                raise Unsupported(f"'{op.name}' is a product of a kind that tiles do not have")
            return k
    return None
