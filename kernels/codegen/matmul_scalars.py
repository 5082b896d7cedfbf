"""Gathers single elements into one tile, so that one matrix product multiplies them all.

Their rows or columns of the weight are then in shared memory. Multiplied one by one, each element
would hold its part of the weight in registers (a Neural Turing Machine of 128 slots, the twelve
single elements of two heads: 48 per thread, sm_90, 8 warps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis.layout import runs
from ..analysis.matmul_form import WeightMatmul
from ..ir.expression import Expr, Name, code, where
from ..ir.program import Op
from ..ir.tile import Span, Tile
from .loop_builder import PersistentBuilder

# fewer are multiplied one by one
FEWEST = 2
# the least columns of a tile: see matmul.PADDED_WIDTH
MIN_K, MIN_N = 16, 32


@dataclass(frozen=True)
class ScalarSpan(Span):
    """The elements at `starts` of a value, next to each other in a tile."""

    starts: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """A suffix that distinguishes this span from others with the same first element."""
        return self.valid, self.width, *self.starts

    def indices(self, index: Name) -> Expr:
        """The indices of the elements of a tile in the value, from its first element."""
        *firsts, last = runs(np.array(self.starts) - self.start)
        place = code("{} + {}", index, last.arg - last.out)
        for run in reversed(firsts):
            before = code("{} < {}", index, run.out + run.size)
            place = where(before, code("{} + {}", index, run.arg - run.out), place)
        return place


def scalar_span(
    b: PersistentBuilder, op: Op, letters: str, spans: Sequence[Span], least: int
) -> ScalarSpan | None:
    """The single elements among `spans` of a vector, if it is the same at all positions of a block
    axis and has several of them."""
    starts = tuple(span.start for span in spans if span.width == 1)
    row = bool(b.program.block_axis) and op.name not in b.wide
    if not row or len(starts) < FEWEST or len(letters) > 1:
        return None
    width = max(least, 1 << (len(starts) - 1).bit_length())
    return ScalarSpan(starts[0], len(starts), width, starts)


def gather_scalars(b: PersistentBuilder, op: Op, how: WeightMatmul) -> tuple[Tile, ...]:
    """The tiles of a value that meets a weight, with its single elements in one of them."""
    tiles = b.tiles[how.value]
    span = scalar_span(b, op, how.letters[0], [t.span for t in tiles], MIN_K)
    if span is None:
        return tiles
    name, cols = b.fresh(f"{how.value}_singles"), b.cols(span.width)
    b.add(op, name, code("tl.zeros([1, {}], ACC)", span.width))
    for k, start in enumerate(span.starts):
        b.add(op, name, where(code("{} == {}", cols, k), b.at(how.value, start).value, name))
    rest = [t for t in tiles if t.span.width > 1]
    return (*rest, Tile(code("{}", name), width=span.width, span=span))


def split_elements(
    b: PersistentBuilder, op: Op, span: ScalarSpan, row: Name, names: Sequence[Name]
) -> None:
    """The elements of a tile, each in a variable of its own."""
    cols = b.cols(span.width)
    for k, name in enumerate(names):
        chosen = where(code("{} == {}", cols, k), row, "0.0")
        b.add(op, name, code("tl.sum({}, 1, keep_dims=True)", chosen))
