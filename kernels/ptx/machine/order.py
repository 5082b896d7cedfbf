"""Whether accesses of global memory are ordered: by barriers, and by releases and acquires.

Each warp has a clock (a vector clock: C. Fidge, Australian Computer Science Communications 10(1),
1988): for every warp, up to which time its accesses are known to have happened. A barrier joins
the clocks of its warps. A release leaves the clock of its warp at an address, and an acquire takes
it from there, if their scopes reach each other. The time of a block grows at barriers and releases.

An access races with an earlier one of another warp that its clock does not cover, unless both are
loads. Threads of a warp are taken to be ordered. Blocks of a launch that is not cooperative cannot
wait for each other: whatever two of them do to one place races, unless both load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .history import History

if TYPE_CHECKING:
    from .memory import Allocation
    from .thread_block import ThreadBlock

Array = NDArray[Any]
# scopes that reach other blocks
_WIDE = ("gpu", "sys")
# the key of what was released to all blocks
_ALL = -1
_AMONG_WARPS = "there is no barrier between them"
_AMONG_BLOCKS = "nothing that was released and acquired orders them"
_NEVER = "the launch is not cooperative, so that nothing orders them"


class Order:
    """The order of accesses of global memory in one launch.

    `count` is the number of blocks, `warps` that of warps per block. `grain` is the size of the
    smallest access: places are followed in units of it, or of a tensor's element if that is larger.
    """

    def __init__(self, count: int, warps: int, cooperative: bool, grain: int):
        self.count, self.warps, self.cooperative = count, warps, cooperative
        self.grain = grain
        self.times = [1] * count
        # the time of the last barrier of all warps of a block
        self.since = [1] * count
        self._clear(count * warps if cooperative else warps)
        self._current = 0
        self._histories: dict[int, History] = {}

    def _clear(self, size: int) -> None:
        self.known = np.zeros((size, size), np.int32)
        # for each warp, the least that it knows of the warps of a block
        self._least = np.zeros((size, size // self.warps), np.int32)
        self._locks: dict[int, dict[int, Array]] = {}
        # what a later fence of a warp acquires, and what an earlier one released
        self._pending: dict[int, Array] = {}
        self._fenced: dict[int, Array] = {}

    def _clock(self, block: ThreadBlock, warps: Any) -> Any:
        """Return the clocks of some warps, as rows of `known`."""
        if self.cooperative:
            return block.number * self.warps + warps
        if block.number != self._current:
            self._current = block.number
            self._clear(self.warps)
        return warps

    def _history(self, memory: Allocation) -> History:
        found = self._histories.get(memory.base)
        if found is None:
            grain = min(max(memory.element, self.grain), 8)
            rows = self.count if self.cooperative else 1
            found = self._histories[memory.base] = History(memory.size, grain, rows)
        return found

    # accesses

    def read(
        self, block: ThreadBlock, memory: Allocation, index: Array, size: int, warps: Array,
        nc: bool,
    ) -> None:  # fmt: skip
        """Note a load of `size` bytes at each of the byte positions; `nc`: of constant memory."""
        history = self._history(memory)
        at, warps = history.places(index, size, warps)
        if history.stored:
            writer = history.writer(at)
            if nc and (writer >= 0).any():
                self._report(block, memory, at, writer >= 0, writer, "loads as constant", "stored")
            late = self._late(block, warps, writer, history.written[at])
            if late is not None:
                self._report(block, memory, at, late, writer, "loads", "stored")
        row = block.number if self.cooperative else 0
        now, since = self.times[block.number], self.since[block.number]
        history.read(row, block.number, at, warps, now, since)

    def write(
        self, block: ThreadBlock, memory: Allocation, index: Array, size: int, warps: Array,
        values: tuple[Sequence[Array], Sequence[Array]],
    ) -> None:  # fmt: skip
        """Note a store; `values` are the numbers that were there, and those that are stored."""
        history = self._history(memory)
        at, each = history.places(index, size, warps)
        if history.stored:
            writer = history.writer(at)
            late = self._late(block, each, writer, history.written[at])
            if late is not None:
                old, given = values
                same = np.logical_and.reduce([x == y for x, y in zip(old, given)])
                kept = np.repeat(same, len(at) // len(same))
                late &= ~(kept & (writer // self.warps == block.number))
                if late.any():
                    self._report(block, memory, at, late, writer, "stores", "stored")
        if history.loaded:
            history.settle()
            self._after_reads(block, memory, history, at, each)
        history.write(at, block.number * self.warps + each, self.times[block.number])

    def _late(self, block: ThreadBlock, warps: Array, writer: Array, when: Array) -> Array | None:
        """Return which stores the clocks do not cover, or None if they cover all."""
        other = (writer >= 0) & (writer != block.number * self.warps + warps)
        if not other.any():
            return None
        clock = self._clock(block, warps)
        if self.cooperative:
            late = other & (self.known[clock, writer] < when)
        else:
            foreign = writer // self.warps != block.number
            late = other & (foreign | (self.known[clock, writer % self.warps] < when))
        return late if late.any() else None

    def _after_reads(
        self, block: ThreadBlock, memory: Allocation, history: History, at: Array, warps: Array
    ) -> None:
        """Report loads by others that a store does not come after."""
        clock = self._clock(block, warps)
        if not self.cooperative:
            foreign = history.read_by_others(at, block.number)
            if foreign.any():
                self._report(block, memory, at, foreign, np.full(len(at), -1), "stores", "loaded")
        late = self._least[clock] < history.seen[:, at].T
        if not late.any():
            return
        place, row = np.nonzero(late)
        other = row if self.cooperative else np.full(len(row), block.number)
        reader = history.seer[row, at[place]]
        mine = (other == block.number) & (reader == warps[place])
        if not self.cooperative:
            mine |= foreign[place] | (history.seen[0, at[place]] < self.since[block.number])
        one = np.where(reader >= 0, reader, 0) + (self.warps * row if self.cooperative else 0)
        covered = (reader >= 0) & (self.known[clock[place], one] >= history.seen[row, at[place]])
        bad = ~(mine | covered)
        if bad.any():
            k = np.flatnonzero(bad)[:1]
            who = other[k] * self.warps + np.maximum(reader[k], 0)
            self._report(block, memory, at[place[k]], np.ones(1, bool), who, "stores", "loaded")

    def _report(
        self, block: ThreadBlock, memory: Allocation, at: Array, late: Array, other: Array,
        now: str, before: str,
    ) -> None:  # fmt: skip
        k = int(np.flatnonzero(late)[0])
        grain = self._history(memory).grain
        address = memory.base + int(at[k]) * grain
        number, warp = divmod(int(other[k]), self.warps)
        where = memory.describe(address, grain)
        if other[k] >= 0 and number == block.number:
            who, why = f"another warp ({warp})", _AMONG_WARPS
        else:
            who = f"block {number}" if other[k] >= 0 else "another block"
            why = _AMONG_BLOCKS if self.cooperative else _NEVER
        if "constant" in now:
            why = "ld.global.nc may return what was there before the launch"
        block.race(f"a thread {now} {where}, which {who} {before}: {why}")

    # what orders accesses

    def barrier(self, block: ThreadBlock, warps: Array | None) -> None:
        """Order all accesses before a barrier before those after it; None: of all warps."""
        clock: Any = self._clock(block, 0 if warps is None else warps)
        if warps is None:
            clock = slice(clock, clock + self.warps)
        joined = self.known[clock].max(0)
        joined[clock] = self.times[block.number]
        self._learn(clock, joined)
        self.times[block.number] += 1
        if warps is None:
            self.since[block.number] = self.times[block.number]

    def atomic(
        self, block: ThreadBlock, address: int, order: str, scope: str, warp: int,
        reads: bool, writes: bool,
    ) -> None:  # fmt: skip
        """Note an access of one thread that orders others, or is ordered by a fence."""
        clock = int(self._clock(block, warp))
        wide = scope in _WIDE
        if reads:
            found = self._released(address, block.number, wide)
            if found is not None and order in ("acquire", "acq_rel"):
                self._learn(clock, np.maximum(self.known[clock], found))
            elif found is not None:
                before = self._pending.get(clock)
                self._pending[clock] = found if before is None else np.maximum(before, found)
        if not writes:
            return
        if not reads:
            # a plain store ends what was released here
            self._locks.pop(address, None)
        if order in ("release", "acq_rel"):
            self._release(address, block.number, wide, self._published(block, clock))
        elif clock in self._fenced:
            self._release(address, block.number, wide, self._fenced[clock])

    def fence(self, block: ThreadBlock, warps: Array, scope: str) -> None:
        """A fence of all blocks; those of one block only are not needed beside barriers."""
        if scope not in _WIDE:
            return
        for warp in warps:
            clock = int(self._clock(block, warp))
            if clock in self._pending:
                self._learn(clock, np.maximum(self.known[clock], self._pending.pop(clock)))
            self._fenced[clock] = self._published(block, clock)

    def _published(self, block: ThreadBlock, clock: int) -> Array:
        """Return the clock of a warp for others; what it does later is later."""
        made = self.known[clock].copy()
        made[clock] = self.times[block.number]
        self.times[block.number] += 1
        return made

    def _release(self, address: int, number: int, wide: bool, clock: Array) -> None:
        locks = self._locks.setdefault(address, {})
        for key in (number, _ALL) if wide else (number,):
            locks[key] = np.maximum(locks[key], clock) if key in locks else clock

    def _released(self, address: int, number: int, wide: bool) -> Array | None:
        locks = self._locks.get(address, {})
        found = [locks[key] for key in ((number, _ALL) if wide else (number,)) if key in locks]
        return np.maximum.reduce(found) if found else None

    def _learn(self, clock: Any, known: Array) -> None:
        self.known[clock] = known
        self._least[clock] = known.reshape(-1, self.warps).min(1)
