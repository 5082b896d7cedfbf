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
    """The marks of shared memory: for each byte one of a last write, and one of reads.

    Reads are only listed until something is written: between most barriers, nothing is.
    """

    def __init__(self, size: int, threads: int):
        warps = threads // 32
        self.size = next(s for s in (1, 2, 4) if warps <= 8 * s)
        dtype = BITS[self.size]
        own = dtype(1) << (np.arange(threads) // 32).astype(dtype)
        self._written = self._views(np.zeros(size, dtype))
        self._read = self._views(np.zeros(size, dtype))
        # for an access of each width: the bit of the thread's warp, in the mark of each byte
        self._own = {w: x[:: 8 // w].copy() for w, x in self._views(np.repeat(own, 8)).items()}
        self._others = {w: ~x for w, x in self._own.items()}
        self._full = {w: ~x.dtype.type(0) for w, x in self._own.items()}
        self._writes = self._reads = False
        self._listed: list[tuple[Array, int, Array | None]] = []

    def _views(self, marks: Array) -> dict[int, Array]:
        """Marks by the width of an access, as integers where those are wide enough."""
        return {w: marks.view(BITS[w * self.size]) for w in (1, 2, 4, 8) if w * self.size <= 8}

    def _split(self, at: Array, width: int) -> tuple[Array, int]:
        """Split accesses that are too wide for one mark; at is (…, threads)."""
        while width * self.size > 8:
            at, width = np.stack([2 * at, 2 * at + 1]), width // 2
        return at, width

    def read(self, at: Array, width: int, lanes: Array | None) -> Array | None:
        """Note reads at places in units of the width. Return which race with a write, if any."""
        self._listed.append((at, width, lanes))
        if not self._writes:
            return None
        at, width = self._split(at, width)
        return _racing(self._written[width][at] & _of(self._own[width], lanes))

    def write(
        self, at: Array, width: int, lanes: Array | None
    ) -> tuple[Array | None, Array | None]:
        """Note writes. Return which race with a write, and which with a read."""
        if self._listed:
            self._mark_reads()
        at, width = self._split(at, width)
        own = _of(self._own[width], lanes)
        twice = _racing(self._written[width][at] & own) if self._writes else None
        late = _racing(self._read[width][at] & own) if self._reads else None
        self._written[width][at] = _of(self._others[width], lanes)
        self._writes = True
        return twice, late

    def _mark_reads(self) -> None:
        self._reads = True
        for at, width, lanes in self._listed:
            at, width = self._split(at, width)
            others, full = _of(self._others[width], lanes), self._full[width]
            marks = self._read[width]
            before = marks[at]
            # a place that another warp has read too
            marks[at] = np.where((before == 0) | (before == others), others, full)
            missed = (marks[at] | others) != marks[at]
            if missed.any():
                marks[at[missed]] = full
        self._listed.clear()

    def read_by(self, at: Array, width: int, warps: Array) -> bool:
        """Note that several warps read places. Return whether that races with a write."""
        at, width = self._split(at, width)
        bits = int(np.bitwise_or.reduce(np.uint64(1) << warps.astype(np.uint64)))
        own = int.from_bytes(bits.to_bytes(self.size, "little") * width, "little")
        self._read[width][at] = self._full[width]
        self._reads = True
        return bool((self._written[width][at] & BITS[width * self.size](own)).any())

    def barrier(self, warps: Array | None) -> None:
        """Order what warps did before it before what they do after it; None: all warps."""
        if warps is not None:
            self._some_barrier(warps)
            return
        self._listed.clear()
        if self._writes:
            self._written[1][:] = 0
        if self._reads:
            self._read[1][:] = 0
        self._writes = self._reads = False

    def _some_barrier(self, warps: Array) -> None:
        self._mark_reads()
        dtype = self._written[1].dtype
        joined = np.bitwise_or.reduce(dtype.type(1) << warps.astype(dtype))
        for marks in (self._written[1], self._read[1]):
            known = (marks != 0) & ((~marks & joined) != 0)
            marks[known] &= ~joined


def _of(x: Array, lanes: Array | None) -> Array:
    return x if lanes is None else x[lanes]


def _racing(late: Array) -> Array | None:
    """Return which threads race, or None."""
    if not late.any():
        return None
    return (late != 0).any(0) if late.ndim > 1 else late != 0
