"""Which programs' accesses are ordered: vector clocks, moved by atomics and barriers.

A release publishes what its program did up to its last `tl.debug_barrier()`, since before that
another warp may not be through; an acquire of the same element takes what was published there.
"""

from __future__ import annotations

import numpy as np

from ..interpreter.faults import Line


class Events:
    """Accesses so far, by number: the program, its clock then, and its line. Number 0 is none."""

    def __init__(self) -> None:
        self.program, self.clock = np.zeros(64, np.int32), np.zeros(64, np.int32)
        self.lines: list[Line] = [("", 0)]

    def add(self, program: int, clock: int, line: Line) -> int:
        """The number of a new event."""
        number = len(self.lines)
        if number == len(self.clock):
            self.program = np.concatenate([self.program, np.zeros_like(self.program)])
            self.clock = np.concatenate([self.clock, np.zeros_like(self.clock)])
        self.program[number], self.clock[number] = program, clock
        self.lines.append(line)
        return number

    def unordered(self, events: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Which events are not before what a program that has `seen` this much does now."""
        return self.clock[events] > seen[self.program[events]]


class History:
    """The last access of one kind to every cell; where several are unordered, one a program."""

    def __init__(self, events: Events, cells: int):
        self._events = events
        self._last = np.zeros(cells, np.int32)
        self._shared = np.zeros(cells, bool)
        self._also: dict[int, np.ndarray] = {}

    def conflicts(self, cells: np.ndarray, seen: np.ndarray) -> tuple[int, int, int] | None:
        """An unordered access to one of `cells`: its place among them, the event, how many."""
        also = self._also.values() if self._also and self._shared[cells].any() else ()
        for last in (self._last, *also):
            events = last[cells]
            late = self._events.unordered(events, seen)
            if late.any():
                place = int(late.argmax())
                return place, int(events[place]), int(late.sum())
        return None

    def add(self, cells: np.ndarray, event: int, seen: np.ndarray) -> None:
        """Remember an access; what is ordered before it need not be remembered any more."""
        beside = self._events.unordered(self._last[cells], seen)
        self._last[cells[~beside]] = event
        if beside.any():
            program, rest = int(self._events.program[event]), cells[beside]
            also = self._also.setdefault(program, np.zeros_like(self._last))
            also[rest] = event
            self._shared[rest] = True


class Clocks:
    """What every program knows of the others' progress; `seen[p, p]` is p's own clock."""

    def __init__(self, programs: int):
        self.seen = np.eye(programs, dtype=np.int32)
        self._through = np.zeros(programs, np.int32)
        self._published: dict[int, np.ndarray] = {}

    def barrier(self, program: int) -> None:
        """All that a program did so far is done, in all its warps."""
        self._through[program] = self.seen[program, program]
        self.seen[program, program] += 1

    def settled(self, program: int) -> np.ndarray:
        """What a program knows, and of its own work only what all its warps are through with."""
        known = self.seen[program].copy()
        known[program] = self._through[program]
        return known

    def release(self, program: int, cells: np.ndarray) -> None:
        """Publish at `cells` what a program did and knows."""
        known = self.settled(program)
        for cell in cells.tolist():
            self._published[cell] = np.maximum(self._published.get(cell, 0), known)

    def acquire(self, program: int, cells: np.ndarray) -> None:
        """Take what was published at `cells`; atomics go on with a release, none ends it."""
        for cell in cells.tolist():
            if cell in self._published:
                np.maximum(self.seen[program], self._published[cell], out=self.seen[program])
