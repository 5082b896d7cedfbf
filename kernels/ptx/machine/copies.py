"""Copies from global to shared memory that are under way (`cp.async`).

A copy arrives as late as it may: when a thread waits for its group. Until then its place holds NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..arithmetic.formats import BITS
from ..program.report import Problem

if TYPE_CHECKING:
    from .thread_block import ThreadBlock

Array = NDArray[Any]


class _Copy(NamedTuple):
    """Words of some threads, and where they go; `data` has one array per word of a thread."""

    at: Array
    width: int
    data: list[Array]
    lanes: Array


class Copies:
    """The copies of one thread block, in groups."""

    def __init__(self, block: ThreadBlock):
        self.block = block
        self._open: list[_Copy] = []
        self._groups: list[list[_Copy]] = []

    def start(
        self, to: Array, to_offset: int, source: Array, offset: int, size: int,
        given: Array | None, mask: Array | None,
    ) -> None:  # fmt: skip
        """Begin copies of `size` bytes, of which `given` bytes are read and the others are 0."""
        block = self.block
        lanes = np.arange(block.threads) if mask is None else np.flatnonzero(mask)
        if not lanes.size:
            return
        shared = block.shared
        index = shared._index(to[lanes], to_offset, size, lanes, "copies")
        width = min(size, 8)
        count = np.full(block.threads, size) if given is None else given.astype(np.int64)
        reads = np.zeros(block.threads, bool)
        reads[lanes] = count[lanes] > 0
        if not np.all((count[lanes] == 0) | (count[lanes] == size)):
            raise Problem("a copy reads a part of its bytes, which is not modelled")
        got = block.tensors.load(source, offset, width, size // width, reads)
        at = index >> (width.bit_length() - 1)
        missing = np.full(len(lanes), ~BITS[width](0))
        for k in range(len(got)):
            shared.wrote(at + k, width, lanes, None)
            shared.views[width][at + k] = missing
        self._open.append(_Copy(at, width, [x[lanes] for x in got], lanes))

    def commit(self, mask: Array | None) -> None:
        """End a group."""
        self._whole(mask)
        self._groups.append(self._open)
        self._open = []

    def wait(self, left: int, mask: Array | None) -> None:
        """Let all groups arrive but the last `left`; -1: also what no group has."""
        self._whole(mask)
        if left < 0:
            self.commit(mask)
        while len(self._groups) > max(left, 0):
            for copy in self._groups.pop(0):
                for k, x in enumerate(copy.data):
                    self.block.shared.wrote(copy.at + k, copy.width, copy.lanes, None)
                    self.block.shared.views[copy.width][copy.at + k] = x

    def _whole(self, mask: Array | None) -> None:
        if mask is not None and not mask.all():
            raise Problem("some threads of a block wait for copies, which is not modelled")
