"""Layout: the tiles of the elements of each value. Their widths are powers of two.

A value is a flat vector. Tiles are cut at the boundaries of slices and joins, so that slices, joins
and reshapes only rename tiles and move no element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from ..ir.program import LoopProgram, Op, Unsupported
from ..ir.tile import Span
from .block_axis import MAX_ELEMENTS
from .matmul_form import ValueMatmul, WeightMatmul, matmul_form

# more tiles of one value would fill pages of source and all registers
MOST_TILES = 64
# the least width of a tile of several elements: that of a matrix product
LEAST = 16
# pieces are used instead of one padded tile if they save at least this share of it
SAVING = 0.2


@dataclass(frozen=True)
class Run:
    """Elements `out, out + 1, …` of a value are those at `arg, arg + step, …` of an operand."""

    out: int
    size: int
    arg: int
    step: int


Link = tuple[str, str, tuple[Run, ...]]


def runs(places: np.ndarray) -> tuple[Run, ...]:
    """The runs of a flat index map; -1 marks elements that do not come from this operand."""
    n = len(places)
    moves = np.diff(places)
    # the elements at which the stride changes, and the last element
    turns = [*(np.flatnonzero(moves[1:] != moves[:-1]) + 1).tolist(), n - 1]
    found: list[Run] = []
    k = at = 0
    while k < n:
        while turns[at] <= k and at < len(turns) - 1:
            at += 1
        step = int(moves[k]) if k < n - 1 else 1
        end = turns[at] + 1 if step in (0, 1) else k + 1
        first = int(places[k])
        if first >= 0:
            found.append(Run(k, end - k, first, step if end - k > 1 else 1))
        # before the first element of this operand, each step may differ
        k = end if first >= 0 or step == 0 else k + 1
    return tuple(found)


@lru_cache(4096)
def broadcast(shape: tuple[int, ...], to: tuple[int, ...]) -> tuple[Run, ...]:
    """The runs of an operand of `shape` in a value of shape `to`."""
    index = np.arange(math.prod(shape)).reshape(shape)
    return runs(np.broadcast_to(index, to).reshape(-1))


def cover(size: int, least: int = LEAST) -> list[tuple[int, int]]:
    """Tiles (valid, width) of `size` elements in a row: pieces if they save enough."""
    if size == 1:
        return [(1, 1)]
    whole = max(least, 1 << (size - 1).bit_length())
    pieces: list[tuple[int, int]] = []
    left = size
    while left > 0:
        last = len(pieces) == 2 or left <= least
        width = max(least, 1 << ((left - 1).bit_length() if last else left.bit_length() - 1))
        pieces.append((min(left, width), width))
        left -= width
    total = sum(width for _, width in pieces)
    return pieces if total <= (1 - SAVING) * whole else [(size, whole)]


class TileLayout:
    """The spans of every value of a program, and how its products are computed.

    Values of `pieces` are cut into pieces of MAX_ELEMENTS elements. Raises Unsupported if a value
    would need too many tiles.
    """

    def __init__(self, program: LoopProgram, least: int = LEAST, pieces: Iterable[str] = ()):
        self.least = least
        self.ops = {op.name: op for op in program.ops}
        self.size = {op.name: math.prod(op.shape) for op in program.ops}
        self.cuts = {op.name: {0, self.size[op.name]} for op in program.ops}
        self.products = {
            op.name: matmul_form(op, self.ops) for op in program.ops if op.kind == "einsum"
        }
        for op in program.ops:  # a block's elements of each part have tiles of their own
            if units := op.attrs.get("units"):
                self._cut(op.name, range(0, self.size[op.name], units))
        for name in pieces:
            self._cut(name, range(0, self.size[name], MAX_ELEMENTS))
        self.links = [link for op in program.ops for link in self._links(op)]
        for state in program.states:
            for other in (*state.inits, state.next):
                shapes = self.ops[other].shape, self.ops[state.name].shape
                self.links.append((state.name, other, broadcast(*shapes)))
        self._settle()
        self.spans = {name: tuple(self._spans(name)) for name in self.ops}
        self._between: dict[tuple[str, str], list[tuple[Run, ...]]] = {}
        for out, arg, found in self.links:
            self._between.setdefault((out, arg), []).append(found)

    def between(self, out: str, arg: str) -> list[tuple[Run, ...]]:
        """The runs by which the elements of a value come from an operand."""
        return self._between.get((out, arg), [])

    def _links(self, op: Op) -> Iterator[Link]:
        """Where the elements of each operand go, for operations that keep them in place."""
        if op.kind in ("pointwise", "read", "over_positions", "own_row"):
            yield from ((op.name, x, broadcast(self.ops[x].shape, op.shape)) for x in op.args)
        elif op.kind == "view":
            yield from ((op.name, x, runs(m)) for x, m in zip(op.args, op.attrs["maps"]))
        elif op.kind in ("sum", "max"):
            yield from self._reduction(op)
        elif op.kind == "all_reduce":  # the parts of all blocks are added element by element
            self._cut(op.name, range(self.size[op.name] + 1))
        elif op.kind == "einsum":
            yield from self._product(op, self.products[op.name])

    def _reduction(self, op: Op) -> Iterator[Link]:
        """Reducing the last dimension gives single elements; other dimensions are added tile by
        tile."""
        x, dims = self.ops[op.args[0]], sorted(op.attrs["dims"])
        self._by_last(x.name)
        if len(x.shape) - 1 in dims:
            self._cut(op.name, range(self.size[op.name] + 1))
            return
        index = np.arange(self.size[x.name]).reshape(x.shape)
        index = np.moveaxis(index, dims, range(len(dims)))
        for places in index.reshape(-1, self.size[op.name]):
            yield op.name, x.name, runs(places)

    def _product(self, op: Op, how: WeightMatmul | ValueMatmul) -> Iterator[Link]:
        if isinstance(how, WeightMatmul):
            self._by_last(how.value)
            self._by_last(op.name)
            return
        for term in how.terms:
            places = (term.out, term.a, term.b)
            if how.moves[0]:
                for k, name in enumerate(op.args, 1):
                    run = Run(term.out, how.size, places[k], int(how.moves[k]))
                    yield op.name, name, (run,)
            else:
                self._cut(op.name, (term.out, term.out + 1))
                if how.moves[1] and how.moves[2]:
                    yield op.args[0], op.args[1], (Run(term.a, how.size, term.b, 1),)

    def _by_last(self, name: str) -> None:
        """Cuts a value at each change of a leading index."""
        shape = self.ops[name].shape
        if len(shape) > 1:
            self._cut(name, range(0, self.size[name] + 1, shape[-1]))

    def _cut(self, name: str, places: Iterable[int]) -> None:
        self.cuts[name].update(places)
        self._check(name)

    def _check(self, name: str) -> None:
        if len(self.cuts[name]) > MOST_TILES + 1:
            op = self.ops[name]
            raise Unsupported(
                f"'{op.note or name}', {op.shape} elements per example, needs more than "
                f"{MOST_TILES} tiles"
            )

    def _settle(self) -> None:
        """Makes the cuts of operands and results agree: passes them on until nothing changes."""
        settled = [(0, 0)] * len(self.links)
        changed = True
        while changed:
            changed = False
            for k, (out, arg, found) in enumerate(self.links):
                a, b = self.cuts[out], self.cuts[arg]
                before = len(a), len(b)
                if before == settled[k]:  # neither has a new cut
                    continue
                settled[k] = before
                for run in found:
                    self._pass(a, b, run)
                if before != (
                    len(a),
                    len(b),
                ):  # a run may have cut what an earlier one passed on
                    changed = True
                    self._check(out)
                    self._check(arg)

    def _pass(self, a: set[int], b: set[int], run: Run) -> None:
        a |= {run.out, run.out + run.size}
        if run.step == 0:
            b |= {run.arg, run.arg + 1}
            return
        end, shift = run.arg + run.size, run.arg - run.out
        b |= {run.arg, end}
        b |= {c + shift for c in a if run.out < c < run.out + run.size}
        a |= {c - shift for c in b if run.arg < c < end}

    def _spans(self, name: str) -> Iterator[Span]:
        ordered = sorted(self.cuts[name])
        own = self.ops[name].attrs.get("own", False)
        for start, end in pairwise(ordered):
            for valid, width in cover(end - start, LEAST if own else self.least):
                yield Span(start, valid, width)
                start += valid


def source(found: Iterable[Run], start: int) -> int | None:
    """The index in the operand of element `start` of the value, or None."""
    for run in found:
        if run.out <= start < run.out + run.size:
            return run.arg + run.step * (start - run.out)
    return None
