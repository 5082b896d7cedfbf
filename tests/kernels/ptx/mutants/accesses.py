"""Which bytes each warp reads and writes between two barriers, recorded without the race checker.

A barrier may be left out if afterwards no warp touches a byte that another one writes before the
next barrier. That is decided here from plain sets of bytes, whatever the order of accesses is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from graphnn.kernels.ptx.machine.marks import Marks
from graphnn.kernels.ptx.machine.order import Order

Touched = dict[Any, np.ndarray]


class Accesses:
    """The bytes that warps touch in shared and global memory; `conflicts` counts those at risk."""

    def __init__(self) -> None:
        self.conflicts = 0
        # by the memory: pairs of warp and byte
        self._reads: dict[Any, list[np.ndarray]] = defaultdict(list)
        self._writes: dict[Any, list[np.ndarray]] = defaultdict(list)

    def touch(self, writes: bool, where: Any, at: Any, width: int, warps: np.ndarray) -> None:
        """Note an access of `width` bytes at each byte position, by the warp of each."""
        rows = np.asarray(at).reshape(-1, np.shape(at)[-1])
        places = (rows[:, :, None] + np.arange(width)).astype(np.int64)
        who = np.broadcast_to(warps[None, :, None], places.shape)
        pairs = np.unique(np.stack([places.ravel(), who.ravel().astype(np.int64)]), axis=1)
        (self._writes if writes else self._reads)[where].append(pairs)

    def barrier(self, where: Any) -> None:
        """End an interval in a memory and count its conflicts."""
        writes, reads = self._writes.pop(where, []), self._reads.pop(where, [])
        if not writes:
            return
        every = np.unique(np.concatenate([*writes, *reads], axis=1), axis=1)
        shared = np.unique(every[0], return_counts=True)
        several = shared[0][shared[1] > 1]
        written = np.unique(np.concatenate(writes, axis=1)[0])
        self.conflicts += len(np.intersect1d(several, written, assume_unique=True))


@contextmanager
def recorded_accesses() -> Iterator[Accesses]:
    """Record the accesses of what is executed inside."""
    found = Accesses()
    with pytest.MonkeyPatch.context() as patch:
        _record_shared(patch, found)
        _record_global(patch, found)
        yield found


def _record_shared(patch: pytest.MonkeyPatch, found: Accesses) -> None:
    read, write, barrier = Marks.read, Marks.write, Marks.barrier

    def noted(writes: bool, then: Any) -> Any:
        def call(marks: Marks, at: Any, width: int, lanes: Any) -> Any:
            threads = np.arange(np.shape(at)[-1]) if lanes is None else lanes
            found.touch(writes, id(marks), np.asarray(at) * width, width, threads // 32)
            return then(marks, at, width, lanes)

        return call

    def met(marks: Marks, warps: Any) -> None:
        assert warps is None, "a barrier of some warps"
        found.barrier(id(marks))
        barrier(marks, warps)

    patch.setattr(Marks, "read", noted(False, read))
    patch.setattr(Marks, "write", noted(True, write))
    patch.setattr(Marks, "barrier", met)


def _record_global(patch: pytest.MonkeyPatch, found: Accesses) -> None:
    read, write, barrier = Order.read, Order.write, Order.barrier

    def noted(writes: bool, then: Any) -> Any:
        def call(
            order: Order, block: Any, memory: Any, index: Any, size: int, warps: Any, *more: Any
        ) -> Any:
            place = index.astype(np.int64) + int(memory.base)
            found.touch(writes, id(block), place, size, np.asarray(warps))
            return then(order, block, memory, index, size, warps, *more)

        return call

    def met(order: Order, block: Any, warps: Any) -> None:
        found.barrier(id(block))
        barrier(order, block, warps)

    patch.setattr(Order, "read", noted(False, read))
    patch.setattr(Order, "write", noted(True, write))
    patch.setattr(Order, "barrier", met)
