"""Which accesses of shared memory the warps of a block have not ordered yet.

The mark of a place is the set of warps, as bits, that would race with an access to it: all but the
warp that made the access, until a barrier orders them after it. A barrier of all warps clears all
marks. One of some warps clears their bits wherever one of them is ordered after the access already.
If several warps have read a place, the mark has all bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic.formats import BITS

Array = NDArray[Any]


class Marks:
    """The marks of shared memory: for each byte one of a last write, and one of reads."""

    def __init__(self, size: int, threads: int):
        warps = threads // 32
        self.size = next(s for s in (1, 2, 4) if warps <= 8 * s)
        dtype = BITS[self.size]
        self.every = dtype(2 ** (8 * self.size) - 1)
        own = dtype(1) << (np.arange(threads) // 32).astype(dtype)
        self._written = self._views(np.zeros(size, dtype))
        self._read = self._views(np.zeros(size, dtype))
        # for an access of each width: the bit of the thread's warp, in the mark of each byte
        self._own = self._views(np.repeat(own, 8))
        self._own = {w: x[:: 8 // w].copy() for w, x in self._own.items()}
        self._others = {w: ~x for w, x in self._own.items()}
        self.used = False

    def _views(self, marks: Array) -> dict[int, Array]:
        """Marks by the width of an access, as integers where those are wide enough."""
        return {w: marks.view(BITS[w * self.size]) for w in (1, 2, 4, 8) if w * self.size <= 8}

    def _width(self, at: Array, width: int) -> tuple[Array, int]:
        """Split accesses that are too wide for one mark; at is (…, threads)."""
        while width * self.size > 8:
            at, width = np.stack([2 * at, 2 * at + 1]), width // 2
        return at, width

    def read(self, at: Array, width: int, lanes: Array | None) -> Array | None:
        """Note reads at places in units of the width. Return the accesses that race, if any."""
        self.used = True
        at, width = self._width(at, width)
        own, others = self._threads(width, lanes)
        late = self._written[width][at] & own
        marks = self._read[width]
        before = marks[at]
        # a place that another warp has read too
        marks[at] = np.where((before == 0) | (before == others), others, self._full(width))
        missed = (marks[at] | others) != marks[at]
        if missed.any():
            marks[at[missed]] = self._full(width)
        return self._races(late)

    def write(
        self, at: Array, width: int, lanes: Array | None, changes: Array | None
    ) -> tuple[Array | None, bool]:
        """Note writes. Return the accesses that race, if any, and whether with a write.

        `changes`: where a number other than the one there is stored; the same one is no race with
        a write. None: everywhere.
        """
        self.used = True
        split, narrow = self._width(at, width)
        own, others = self._threads(narrow, lanes)
        written = self._written[narrow][split] & own
        late = self._read[narrow][split] & own
        self._written[narrow][split] = np.broadcast_to(others, split.shape)
        if changes is not None:
            written = np.where(changes, written, 0)
        races = self._races(written)
        return (races, True) if races is not None else (self._races(late), False)

    def read_by(self, at: Array, width: int, warps: Array) -> bool:
        """Note that several warps read places. Return whether that races with a write."""
        self.used = True
        at, width = self._width(at, width)
        bits = int(np.bitwise_or.reduce(np.uint64(1) << warps.astype(np.uint64)))
        own = int.from_bytes(bits.to_bytes(self.size, "little") * width, "little")
        self._read[width][at] = self._full(width)
        return bool((self._written[width][at] & BITS[width * self.size](own)).any())

    def barrier(self, warps: Array | None) -> None:
        """Order what warps did before it before what they do after it; None: all warps."""
        if not self.used:
            return
        if warps is None:
            self._written[1][:] = 0
            self._read[1][:] = 0
            self.used = False
            return
        joined = np.bitwise_or.reduce(self.every.dtype.type(1) << warps.astype(self.every.dtype))
        for marks in (self._written[1], self._read[1]):
            known = (marks != 0) & ((~marks & joined) != 0)
            marks[known] &= ~joined

    def _threads(self, width: int, lanes: Array | None) -> tuple[Array, Array]:
        own, others = self._own[width], self._others[width]
        return (own, others) if lanes is None else (own[lanes], others[lanes])

    def _full(self, width: int) -> Any:
        return BITS[width * self.size](2 ** (8 * width * self.size) - 1)

    @staticmethod
    def _races(late: Array) -> Array | None:
        """Return which threads race, or None."""
        if not late.any():
            return None
        return (late != 0).any(0) if late.ndim > 1 else late != 0
