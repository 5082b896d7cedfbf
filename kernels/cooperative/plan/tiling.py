"""How a block computes matrix products: the pieces of its operands and columns of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...codegen.matmul import Columns
from ...ir.program import Op, Part
from ...ir.tile import Span

# the least columns of a product per warp: with fewer, warps would repeat each other's work (sm_90,
# Triton 3.6: 288 matrix instructions instead of 48), and split the operand instead
MIN_COLUMNS_PER_WARP = 8
# the least elements of an operand of a matrix instruction
MIN_K = 16


@dataclass(frozen=True)
class Tiling:
    """How a block computes: the `units` it has, its warps, and how products are cut.

    `piece` elements of an operand are multiplied at once, and `flight` pieces are loaded before the
    first is. Of all weights a block keeps at most `room` elements, and loads others at each step.
    With `bf16x3`, float32 is multiplied in parts of bfloat16 (see `prelude.matmul_bf16x3`).
    """

    units: int
    warps: int = 8
    piece: int = 128
    flight: int = 8
    room: int = 1 << 30
    bf16x3: bool = False

    def has_room(self, on_chip: Mapping[str, int], count: int) -> bool:
        """Whether `count` more elements are kept, given those that are `on_chip` of each weight."""
        return sum(on_chip.values()) + count <= self.room


@dataclass(frozen=True)
class Cut:
    """A matmul in parts: each of the `groups` of columns is multiplied by each of the `pieces` of
    the operand. If `split_k`, warps split the operand, not the columns."""

    groups: tuple[Columns, ...]
    pieces: tuple[Span, ...]
    split_k: bool

    def staged(self, tiling: Tiling) -> tuple[int, ...]:
        """The widths of the pieces that are under way at once."""
        return tuple(s.width for s in self.pieces[: tiling.flight])

    def weights(self) -> Iterator[int]:
        """The elements of each tile of the weight, in the order in which they are loaded."""
        return (span.width * n.width for span in self.pieces for n in self.groups)


def cut(op: Op, spans: Mapping[str, Sequence[Span]], tiling: Tiling) -> Cut:
    """How a product is computed; `spans` are the spans of the elements of all values."""
    groups = tuple(_groups(op, spans[op.name]))
    widths = [n.width for n in groups]
    few = min(widths) > 1 and max(widths) < MIN_COLUMNS_PER_WARP * tiling.warps
    if op.args and "exchange" not in op.attrs:  # tiles in registers
        return Cut(groups, tuple(spans[op.args[0]]), False)
    size, piece = op.attrs["inner"], tiling.piece
    least = MIN_K * tiling.warps if few else MIN_K
    piece = max(least, min(piece, 1 << (size - 1).bit_length()))
    pieces = tuple(Span(k, min(piece, size - k), piece) for k in range(0, size, piece))
    return Cut(groups, pieces, few)


def _groups(op: Op, spans: Sequence[Span]) -> Iterator[Columns]:
    """Parts of the result, equally wide, that come out of one product."""
    weight: Part = op.attrs["weight"]
    left = list(spans)
    while left:
        first = left[0]
        equal = [s for s in left if _equal(weight, first, s)][:4]
        count = len(equal) if first.width > 1 else 1
        yield Columns(tuple(equal[:count]), weight.period * op.attrs["steps"][1])
        left = [s for s in left if s not in equal[:count]]


def _equal(weight: Part, a: Span, b: Span) -> bool:
    """Whether two spans are the same part of the block's elements of two periods."""
    units = weight.units
    same = (a.valid, a.width) == (b.valid, b.width)
    return a == b or bool(units and same and a.start % units == b.start % units)
