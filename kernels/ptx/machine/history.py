"""Who stored and loaded each place of a tensor last, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# instead of a warp or block: several
SEVERAL = -1
# loads of a tensor that are listed at most
LISTED = 2000


class History:
    """The last accesses of each place, of `grain` bytes. Arrays begin as zeros, which cost nothing.

    `seen` and `seer` have the time of the last load by each block, and the warp that loaded. If
    blocks run one after another they have one row, for the block that loaded last. Loads are only
    listed, up to a number, until something is stored: most tensors are only loaded.
    """

    def __init__(self, size: int, grain: int, rows: int):
        self.grain, self._shift = grain, grain.bit_length() - 1
        self._size = -(-size // grain)
        self.stored = self.loaded = False
        self.seen = np.zeros((rows, self._size), np.int32)
        self.seer = np.zeros((rows, self._size), np.int16)
        self._writer = np.zeros(self._size, np.int32)
        self.written = np.zeros(self._size, np.int32)
        self._readers = np.zeros(self._size, np.int32)
        self._listed: list[tuple[int, int, Array, Array, int, int]] = []

    def places(self, index: Array, size: int, warps: Array) -> tuple[Array, Array]:
        """Return all places that accesses of `size` bytes touch, and the warp of each."""
        at = index.view(np.int64) >> self._shift
        count = size >> self._shift
        if count <= 1:
            return at, warps
        return (at[:, None] + np.arange(count)).ravel(), np.repeat(warps, count)

    def writer(self, at: Array) -> Array:
        """Return which warp of the launch stored places last, -1 for none."""
        return self._writer[at] - 1

    def write(self, at: Array, writer: Array, now: int) -> None:
        """Note stores by warps of the launch."""
        self.stored = True
        self.settle()
        self._writer[at] = writer + 1
        self.written[at] = now

    def read(self, row: int, block: int, at: Array, warps: Array, now: int, since: int) -> None:
        """Note loads; those before `since` are ordered within the block."""
        self.loaded = True
        self._listed.append((row, block, at, warps, now, since))
        if self.stored or len(self._listed) >= LISTED:
            self.settle()

    def settle(self) -> None:
        """Follow the loads that are only listed so far."""
        for row, block, at, warps, now, since in self._listed:
            seen, seer = self.seen[row], self.seer[row]
            clash = (seen[at] >= since) & (seer[at] != warps)
            seen[at] = now
            seer[at] = warps
            # within one statement, too
            clash |= seer[at] != warps
            if clash.any():
                seer[at[clash]] = SEVERAL
            if len(self.seen) == 1:
                before = self._readers[at]
                alone = (before == 0) | (before == block + 1)
                self._readers[at] = np.where(alone, block + 1, SEVERAL)
        self._listed.clear()

    def read_by_others(self, at: Array, block: int) -> Array:
        """Return which places another block has loaded, if blocks run one after another."""
        before = self._readers[at]
        return (before != 0) & (before != block + 1)
