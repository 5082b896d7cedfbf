"""Single numbers of a row that meet a weight, side by side in one tile: a matrix product takes them
all, and their rows or columns of the weight lie in shared memory.

One by one each holds its own of the weight in registers (a Neural Turing Machine of 128 slots, the
twelve single numbers of two heads: 48 a thread, sm_90, 8 warps).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis.layout import runs
from ..analysis.matmul_form import WeightMatmul
from ..ir.program import Op
from ..ir.tile import Span
from .loop_builder import PersistentBuilder, Tile

# fewer are multiplied one by one
FEWEST = 2
# the columns of a tile, at least: see dots.NARROW
DEPTH, WIDTH = 16, 32


@dataclass(frozen=True)
class Singles(Span):
    """The numbers at `starts` of a value, side by side in a tile."""

    starts: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """What tells it from others that begin where it does."""
        return self.valid, self.width, *self.starts

    def places(self, index: str) -> str:
        """Where in the value, from the first on, the numbers of a tile lie."""
        *firsts, last = runs(np.array(self.starts) - self.start)
        text = f"{index} + {last.arg - last.out}"
        for run in reversed(firsts):
            text = (
                f"tl.where({index} < {run.out + run.size}, {index} + {run.arg - run.out}, {text})"
            )
        return text


def singles(
    page: PersistentBuilder, op: Op, letters: str, spans: Sequence[Span], least: int
) -> Singles | None:
    """The single numbers among `spans` of a vector, where all lanes have alike several of them."""
    starts = tuple(span.start for span in spans if span.width == 1)
    row = bool(page.program.lanes) and op.name not in page.wide
    if not row or len(starts) < FEWEST or len(letters) > 1:
        return None
    width = max(least, 1 << (len(starts) - 1).bit_length())
    return Singles(starts[0], len(starts), width, starts)


def gathered(page: PersistentBuilder, op: Op, how: WeightMatmul) -> tuple[Tile, ...]:
    """The tiles of a value that meets a weight, its single numbers in one of them."""
    tiles = page.tiles[how.value]
    span = singles(page, op, how.letters[0], [t.span for t in tiles], DEPTH)
    if span is None:
        return tiles
    name, cols = page.names.fresh(f"{how.value}_singles"), page.cols(span.width)
    page.add(op, f"{name} = tl.zeros([1, {span.width}], ACC)")
    for k, start in enumerate(span.starts):
        page.add(op, f"{name} = tl.where({cols} == {k}, {page.at(how.value, start).text}, {name})")
    rest = [t for t in tiles if t.span.width > 1]
    return (*rest, Tile(span, name, span.width, False))


def picked(page: PersistentBuilder, op: Op, span: Singles, row: str, names: Sequence[str]) -> None:
    """The numbers of a tile, each by itself."""
    cols = page.cols(span.width)
    for k, name in enumerate(names):
        chosen = f"tl.where({cols} == {k}, {row}, 0.0)"
        page.add(op, f"{name} = tl.sum({chosen}, 1, keep_dims=True)")
