"""The shared memory of a thread block; it begins as NaN. Addresses are arrays of uint32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic.atomics import NEW_VALUES
from ..arithmetic.formats import BITS
from ..arithmetic.fragments import matrix_addresses
from ..program.report import Problem
from .marks import Marks

if TYPE_CHECKING:
    from .thread_block import ThreadBlock

Array = NDArray[Any]
# where shared memory begins, so that address 0 is outside; swizzled matrices need multiples of 1024
BEGIN = 1024
# which floats the numbers in shared memory are taken for, by size: PTX does not say
KINDS = {2: "bf16", 4: "f32", 8: "f64"}


class SharedMemory:
    """Shared memory of `size` bytes, with bounds, alignment and races checked."""

    def __init__(self, block: ThreadBlock, size: int, fenced: bool):
        self.block, self.size = block, size
        raw = np.full(-(-size // 16) * 16, 255, np.uint8)
        self.views = {w: raw.view(dtype) for w, dtype in BITS.items()}
        self.marks = Marks(len(raw), block.threads)
        # what was stored with no fence.proxy.async since, if wgmma may read it
        self._unfenced = np.zeros(len(raw), bool) if fenced else None

    def load(
        self, address: Array, offset: int, width: int, count: int, mask: Array | None,
        strong: bool = False,
    ) -> Sequence[Array]:  # fmt: skip
        """Return `count` arrays of `width` bytes per thread; threads left out get zeros."""
        lanes, address = self._lanes(address, mask)
        if lanes is not None and not lanes.size:
            return [np.zeros(self.block.threads, BITS[width])] * count
        index = self._index(address, offset, width * count, lanes, "loads")
        at = index >> (width.bit_length() - 1)
        found = [self.views[width][at + k] if k else self.views[width][at] for k in range(count)]
        for k, wide in self._words(width, count):
            self._read((index >> (wide.bit_length() - 1)) + k, wide, lanes)
        return found if lanes is None else [self._spread(x, lanes) for x in found]

    def store(
        self, address: Array, offset: int, width: int, values: Sequence[Array],
        mask: Array | None, strong: bool = False,
    ) -> None:  # fmt: skip
        """Store arrays side by side, for the threads of a mask."""
        lanes, address = self._lanes(address, mask)
        if lanes is not None:
            if not lanes.size:
                return
            values = [x[lanes] for x in values]
        index = self._index(address, offset, width * len(values), lanes, "stores")
        at = index >> (width.bit_length() - 1)
        for k, x in enumerate(values):
            self.put(at + k if k else at, width, x, lanes)

    def put(self, at: Array, width: int, x: Array, lanes: Array | None) -> None:
        """Store numbers at places in units of their width, which are known to exist."""
        view = self.views[width]
        self.wrote(at, width, lanes, x)
        view[at] = x
        self.block.alike(view[at], x, "shared memory", KINDS.get(width, ""))

    def wrote(self, at: Array, width: int, lanes: Array | None, x: Array | None) -> None:
        """Note writes, and find races. Writing the number `x` that is there is none with writes."""
        twice, late = self.marks.write(at, width, lanes)
        if twice is not None and x is not None:
            twice &= self.views[width][at] != x
        if twice is not None and twice.any():
            self._race(at, width, lanes, twice, "writes", "wrote")
        elif late is not None:
            self._race(at, width, lanes, late, "writes", "read")
        if self._unfenced is not None:
            self._unfenced[(at[:, None] * width + np.arange(width)).ravel()] = True

    def _read(self, at: Array, width: int, lanes: Array | None) -> None:
        races = self.marks.read(at, width, lanes)
        if races is not None:
            self._race(at, width, lanes, races, "reads", "wrote")

    def _race(
        self, at: Array, width: int, lanes: Array | None, races: Array, now: str, before: str
    ) -> None:
        k = int(np.flatnonzero(races)[0])
        lane = int(k if lanes is None else lanes[k])
        self.block.race(
            f"warp {lane // 32} {now} byte {int(at[k]) * width} of shared memory, which another "
            f"warp {before}: there is no barrier between them"
        )

    @staticmethod
    def _words(width: int, count: int) -> list[tuple[int, int]]:
        """Return (number, width) of the words that a vector is marked by: as wide as there are."""
        wide = min(8, width * count)
        return [(k, wide) for k in range(width * count // wide)]

    # matrices

    def load_matrices(
        self, address: Array, offset: int, count: int, trans: bool, mask: Array | None
    ) -> Sequence[Array]:
        """`ldmatrix`: return `count` registers."""
        lanes, index, size = self._matrices(address, offset, count, trans, mask, "loads")
        made = np.zeros((count, self.block.threads), np.uint32)
        threads = slice(None) if lanes is None else lanes
        for k in range(count):
            parts = []
            for where in index[k].reshape(-1, index.shape[-1]):
                at = where >> (size.bit_length() - 1)
                parts.append(self.views[size][at].astype(np.uint32))
                self._read(at, size, lanes)
            made[k, threads] = parts[0] if len(parts) == 1 else parts[0] | parts[1] << np.uint32(16)
        return list(made)

    def store_matrices(
        self, address: Array, offset: int, values: Sequence[Array], trans: bool, mask: Array | None
    ) -> None:
        """`stmatrix`: store registers."""
        lanes, index, size = self._matrices(address, offset, len(values), trans, mask, "stores")
        for k, x in enumerate(values):
            x = x if lanes is None else x[lanes]
            for half, where in enumerate(index[k].reshape(-1, index.shape[-1])):
                part = x if size == 4 else (x >> np.uint32(16 * half)).astype(np.uint16)
                self.put(where >> (size.bit_length() - 1), size, part, lanes)

    def _matrices(
        self, address: Array, offset: int, count: int, trans: bool, mask: Array | None, what: str
    ) -> tuple[Array | None, Array, int]:
        lanes = None if mask is None else self.block.whole_warps(mask)
        address = address if lanes is None else address[lanes]
        rows = address.reshape(-1, 32)[:, : 8 * count]
        self._index(rows.ravel(), offset, 16, None, f"{what} a matrix row of")
        address = address + np.uint32(offset & 0xFFFFFFFF) - np.uint32(BEGIN)
        index, size = matrix_addresses(address, count, trans)
        return lanes, index, size

    def described(self, address: Array, size: int, warps: Array) -> Array:
        """Return numbers of a matrix that wgmma reads, for all warps of a group."""
        index = self._index(address.astype(np.uint32), 0, size, None, "multiplies")
        if self._unfenced is not None and self._unfenced[index].any():
            self.block.race(
                "wgmma reads shared memory that was stored with no fence.proxy.async since"
            )
        at = index >> (size.bit_length() - 1)
        if self.marks.read_by(at, size, warps):
            self.block.race(
                "wgmma reads shared memory that a warp wrote: there is no barrier between them"
            )
        return self.views[size][at]

    def fence_proxy(self) -> None:
        """Show stores to wgmma (`fence.proxy.async`)."""
        if self._unfenced is not None:
            self._unfenced[:] = False

    # atomics

    def atomic(
        self, address: Array, offset: int, dtype: Any, what: str, values: Sequence[Array],
        order: str, scope: str, mask: Array | None,
    ) -> Array:  # fmt: skip
        """Do an atomic for each thread in turn, and return what each found."""
        every, address = self._lanes(address, mask)
        lanes = np.arange(self.block.threads) if every is None else every
        made = np.zeros(self.block.threads, dtype)
        size = made.dtype.itemsize
        if not lanes.size:
            return made
        at = self._index(address, offset, size, every, "changes") // size
        view = self.views[size].view(dtype)
        for lane, here in zip(lanes, at):
            old = made[lane] = view[here]
            view[here] = NEW_VALUES[what](old, *(x[lane] for x in values))
        return made

    def _lanes(self, address: Array, mask: Array | None) -> tuple[Array | None, Array]:
        if mask is None:
            return None, address
        lanes = np.flatnonzero(mask)
        return lanes, address[lanes]

    def _index(
        self, address: Array, offset: int, size: int, lanes: Array | None, what: str
    ) -> Array:
        """Return byte positions. Raises Problem if they are outside, or not aligned."""
        index = address + np.uint32((offset - BEGIN) & 0xFFFFFFFF)
        # what lies before the memory wraps around to large positions
        if int(np.maximum.reduce(index)) + size > self.size:
            k = int(np.flatnonzero(index.astype(np.int64) + size > self.size)[0])
            lane = int(k if lanes is None else lanes[k])
            at = int(index[k].view(np.int32))
            text = f"a thread {what} bytes {at} to {at + size} of {self.size} of shared memory"
            raise Problem(text, lane)
        if int(np.bitwise_or.reduce(index)) & (size - 1):
            k = int(np.flatnonzero(index & np.uint32(size - 1))[0])
            lane = int(k if lanes is None else lanes[k])
            text = f"a thread {what} {size} bytes at {int(index[k])} of shared memory, not aligned"
            raise Problem(text, lane)
        return index.view(np.int32)

    def _spread(self, x: Array, lanes: Array) -> Array:
        whole = np.zeros(self.block.threads, x.dtype)
        whole[lanes] = x
        return whole
