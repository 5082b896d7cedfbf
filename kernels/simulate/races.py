"""The order of accesses of different programs: vector clocks, advanced by atomics and barriers.

A release publishes what its program did up to its last `tl.debug_barrier()`: other warps of the
program may not have finished what comes later. An acquire of the same element receives what was
published there.
"""

from __future__ import annotations

import numpy as np

from ..interpreter.faults import SourceLine


class AccessLog:
    """Numbered accesses: their program, its clock at the time, and the line. Number 0 is unused."""

    def __init__(self) -> None:
        self.program, self.clock = np.zeros(64, np.int32), np.zeros(64, np.int32)
        self.lines: list[SourceLine] = [("", 0)]

    def add(self, program: int, clock: int, line: SourceLine) -> int:
        """Record an access and return its number."""
        number = len(self.lines)
        if number == len(self.clock):
            self.program = np.concatenate([self.program, np.zeros_like(self.program)])
            self.clock = np.concatenate([self.clock, np.zeros_like(self.clock)])
        self.program[number], self.clock[number] = program, clock
        self.lines.append(line)
        return number

    def unordered(self, events: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Return which events are not ordered before the next access of a program.

        `seen` is that program's vector clock: per program, the last clock value it knows of.
        """
        return self.clock[events] > seen[self.program[events]]


class History:
    """The last access of one kind to each cell; one per program if several are unordered."""

    def __init__(self, events: AccessLog, cells: int):
        self._events = events
        self._last = np.zeros(cells, np.int32)
        self._shared = np.zeros(cells, bool)
        self._further: dict[int, np.ndarray] = {}

    def conflicts(self, cells: np.ndarray, seen: np.ndarray) -> tuple[int, int, int] | None:
        """Return the first unordered access to `cells`: its index, its event, and their number."""
        further = self._further.values() if self._further and self._shared[cells].any() else ()
        for last in (self._last, *further):
            events = last[cells]
            late = self._events.unordered(events, seen)
            if late.any():
                index = int(late.argmax())
                return index, int(events[index]), int(late.sum())
        return None

    def add(self, cells: np.ndarray, event: int, seen: np.ndarray) -> None:
        """Record an access. Accesses ordered before it are forgotten."""
        concurrent = self._events.unordered(self._last[cells], seen)
        self._last[cells[~concurrent]] = event
        if concurrent.any():
            program, rest = int(self._events.program[event]), cells[concurrent]
            further = self._further.setdefault(program, np.zeros_like(self._last))
            further[rest] = event
            self._shared[rest] = True


class Clocks:
    """The vector clock of each program: what it knows of all others. `seen[p, p]` is p's clock."""

    def __init__(self, programs: int):
        self.seen = np.eye(programs, dtype=np.int32)
        self._finished = np.zeros(programs, np.int32)
        self._published: dict[int, np.ndarray] = {}

    def barrier(self, program: int) -> None:
        """Record that all warps of a program have finished what it did so far."""
        self._finished[program] = self.seen[program, program]
        self.seen[program, program] += 1

    def settled(self, program: int) -> np.ndarray:
        """Return a program's vector clock, counting of its own work what all warps finished."""
        known = self.seen[program].copy()
        known[program] = self._finished[program]
        return known

    def release(self, program: int, cells: np.ndarray) -> None:
        """Publish a program's settled vector clock at `cells`."""
        known = self.settled(program)
        for cell in cells.tolist():
            self._published[cell] = np.maximum(self._published.get(cell, 0), known)

    def acquire(self, program: int, cells: np.ndarray) -> None:
        """Merge what was published at `cells` into a program's vector clock.

        Later atomics on the same element extend a release sequence and never end it.
        """
        for cell in cells.tolist():
            if cell in self._published:
                np.maximum(self.seen[program], self._published[cell], out=self.seen[program])
