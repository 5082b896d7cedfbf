"""What a thread block does to global memory: loads, stores and atomics, with bounds checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic.atomics import NEW_VALUES
from ..arithmetic.formats import BITS
from ..program.report import Problem
from .memory import Memory
from .order import Order

if TYPE_CHECKING:
    from .thread_block import ThreadBlock

Array = NDArray[Any]


class GlobalMemory:
    """What one thread block does to global memory. Addresses are arrays of uint64."""

    def __init__(self, block: ThreadBlock, memory: Memory, order: Order):
        self.block, self.memory, self.order = block, memory, order

    def load(
        self, address: Array, offset: int, width: int, count: int, mask: Array | None,
        strong: bool = False, nc: bool = False,
    ) -> Sequence[Array]:  # fmt: skip
        """Return `count` arrays of `width` bytes per thread; threads left out get zeros."""
        lanes, address = self._lanes(address, offset, mask)
        if lanes is not None and not lanes.size:
            return [np.zeros(self.block.threads, BITS[width])] * count
        found: list[Array] = []
        size = width * count
        for part, memory, index in self._parts(address, lanes, size, "loads"):
            at = index >> np.uint64(width.bit_length() - 1)
            view = memory.views[width]
            got = [view[at + np.uint64(k)] if k else view[at] for k in range(count)]
            if not strong:
                who = self._who(lanes, part)
                self.order.read(self.block, memory, index, size, who, nc)
            if part is None:
                found = got
            else:
                found = found or [np.zeros(len(address), view.dtype) for _ in got]
                for whole, x in zip(found, got):
                    whole[part] = x
        return found if lanes is None else [self._spread(x, lanes) for x in found]

    def store(
        self, address: Array, offset: int, width: int, values: Sequence[Array],
        mask: Array | None, strong: bool = False,
    ) -> None:  # fmt: skip
        """Store arrays side by side, for the threads of a mask."""
        lanes, address = self._lanes(address, offset, mask)
        if lanes is not None:
            if not lanes.size:
                return
            values = [x[lanes] for x in values]
        self.block.machine.changed = True
        size = width * len(values)
        for part, memory, index in self._parts(address, lanes, size, "stores"):
            given = values if part is None else [x[part] for x in values]
            at = index >> np.uint64(width.bit_length() - 1)
            view = memory.views[width]
            if not strong:
                old = [view[at + np.uint64(k)] for k in range(len(given))]
                who = self._who(lanes, part)
                self.order.write(self.block, memory, index, size, who, (old, given))
            for k, x in enumerate(given):
                here = at + np.uint64(k) if k else at
                view[here] = x
                self.block.alike(view[here], x, "a tensor", memory.kind)

    def atomic(
        self, address: Array, offset: int, dtype: Any, what: str, values: Sequence[Array],
        order: str, scope: str, mask: Array | None,
    ) -> Array:  # fmt: skip
        """Do an atomic for each thread in turn, and return what each found."""
        every, address = self._lanes(address, offset, mask)
        lanes = np.arange(self.block.threads) if every is None else every
        made = np.zeros(self.block.threads, dtype)
        size = made.dtype.itemsize
        for lane, here in zip(lanes, address):
            _, memory, index = next(
                self._parts(np.array([here]), lanes[:1] * 0 + lane, size, "changes")
            )
            view, at = memory.views[size].view(dtype), int(index[0]) // size
            old = made[lane] = view[at]
            new = NEW_VALUES[what](old, *(x[lane] for x in values))
            if new != old:
                view[at] = new
                self.block.machine.changed = True
            self.order.atomic(self.block, int(here), order, scope, int(lane) // 32, True, True)
        return made

    def _lanes(self, address: Array, offset: int, mask: Array | None) -> tuple[Array | None, Array]:
        lanes = None
        if mask is not None:
            lanes = np.flatnonzero(mask)
            address = address[lanes]
        if offset:
            address = address + np.uint64(offset & (2**64 - 1))
        return lanes, address

    def _parts(self, address: Array, lanes: Array | None, size: int, what: str) -> Any:
        """Yield (threads, memory, byte index), once for each tensor; None: for all threads."""
        memory = self.memory.at(int(address[0]))
        if memory is not None:
            index = address - np.uint64(memory.base)
            # addresses before the tensor wrap around to large ones
            if (
                int(np.maximum.reduce(index - np.uint64(memory.first))) + size
                <= memory.size - memory.first
            ):
                if int(np.bitwise_or.reduce(index)) & (size - 1):
                    self._misaligned(address, lanes, size, what)
                yield None, memory, index
                return
        yield from self._apart(address, lanes, size, what)

    def _apart(self, address: Array, lanes: Array | None, size: int, what: str) -> Any:
        if int(np.bitwise_or.reduce(address)) & (size - 1):
            self._misaligned(address, lanes, size, what)
        groups: dict[int, list[int]] = {}
        for k, here in enumerate(address.tolist()):
            memory = self.memory.at(here)
            if memory is None or here < memory.begin or here + size > memory.end:
                lane = int(k if lanes is None else lanes[k])
                raise self.memory.problem(f"a thread {what} {size} bytes", here, size, lane)
            groups.setdefault(memory.base, []).append(k)
        for listed in groups.values():
            part = np.array(listed)
            memory = self.memory.at(int(address[part[0]]))
            assert memory is not None
            yield part, memory, address[part] - np.uint64(memory.base)

    def _misaligned(self, address: Array, lanes: Array | None, size: int, what: str) -> None:
        k = int(np.flatnonzero(address & np.uint64(size - 1))[0])
        lane = int(k if lanes is None else lanes[k])
        memory = self.memory.at(int(address[k]))
        where = f": {memory.describe(int(address[k]), size)}" if memory else ""
        raise Problem(f"a thread {what} {size} bytes that are not aligned to {size}{where}", lane)

    def _who(self, lanes: Array | None, part: Array | None) -> Array:
        """Return the warps of the threads that take part."""
        warps = self.block.warp_of if lanes is None else self.block.warp_of[lanes]
        return warps if part is None else warps[part]

    def _spread(self, x: Array, lanes: Array) -> Array:
        whole = np.zeros(self.block.threads, x.dtype)
        whole[lanes] = x
        return whole
