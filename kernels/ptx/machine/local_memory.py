"""The local memory of the threads of a block: each has its own, which begins as NaN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic.formats import BITS
from ..program.report import Problem

Array = NDArray[Any]


class LocalMemory:
    """Local memory of each thread, at addresses from `begin` to `end`, which are checked.

    No other thread can reach it, so there are no races.
    """

    def __init__(self, threads: int, begin: int, end: int):
        self.threads, self.begin, self.size = threads, begin, end - begin
        raw = np.full((threads, -(-self.size // 16) * 16), 255, np.uint8)
        self.views = {w: raw.view(dtype) for w, dtype in BITS.items()}

    def load(
        self, address: Array, offset: int, width: int, count: int, mask: Array | None,
        **hints: bool,
    ) -> Sequence[Array]:  # fmt: skip
        """Return `count` arrays of `width` bytes per thread; threads left out get zeros."""
        lanes, at = self._places(address, offset, width, count, mask, "loads")
        found = [np.zeros(self.threads, BITS[width]) for _ in range(count)]
        for k, x in enumerate(found):
            x[lanes] = self.views[width][lanes, at + k]
        return found

    def store(
        self, address: Array, offset: int, width: int, values: Sequence[Array],
        mask: Array | None, **hints: bool,
    ) -> None:  # fmt: skip
        """Store arrays side by side, for the threads of a mask."""
        lanes, at = self._places(address, offset, width, len(values), mask, "stores")
        for k, x in enumerate(values):
            self.views[width][lanes, at + k] = x[lanes]

    def _places(
        self, address: Array, offset: int, width: int, count: int, mask: Array | None, what: str
    ) -> tuple[Array, Array]:
        """Return threads, and their places in units of `width`. Raises Problem if one is wrong."""
        lanes = np.arange(self.threads) if mask is None else np.flatnonzero(mask)
        index = address[lanes].astype(np.int64) + (offset - self.begin)
        size = width * count
        outside = (index < 0) | (index + size > self.size)
        if outside.any():
            k = int(np.flatnonzero(outside)[0])
            at = int(index[k])
            text = f"a thread {what} bytes {at} to {at + size} of {self.size} of local memory"
            raise Problem(text, int(lanes[k]))
        # addresses have the alignment of what was declared, from `begin` on
        unaligned = (index + self.begin) % size != 0
        if unaligned.any():
            k = int(np.flatnonzero(unaligned)[0])
            text = f"a thread {what} {size} bytes at {int(index[k])} of local memory, not aligned"
            raise Problem(text, int(lanes[k]))
        return lanes, index // width
