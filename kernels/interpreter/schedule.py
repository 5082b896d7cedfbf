"""The order in which programs run: one after another, or as threads that switch at atomics."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from .faults import Deadlock, SourceLine, format_line

_MAX_IDLE_ROUNDS = 100  # rounds of polls by all waiting programs without a change: a deadlock


class _Halt(BaseException):
    """Ends a program's thread after a fault elsewhere. No `except Exception` can catch it."""


class InOrder:
    """Runs programs one after another. None can wait for a later one."""

    advice = "; run with threads=True if programs wait for one another"

    def __init__(self, names: list[str], seed: int):
        self.names = names
        self.current = 0
        self.turns = 0
        self._random = random.Random(seed)
        self._alive: set[int] = set()
        self._waits: dict[int, tuple[Callable[[], str], SourceLine]] = {}
        self._finished: set[int] = set()
        self._changes = 0  # how often an atomic has changed a value
        self._polled: dict[int, int] = {}  # per program, `_changes` at its last poll
        self._rounds = 0

    def run(self, body: Callable[[int], None]) -> None:
        """Run `body(program)` for every program."""
        for program in range(len(self.names)):
            self.current, self._alive = program, {program}
            body(program)
            self._finished.add(program)

    def poll(self, value: Callable[[], str], line: SourceLine) -> None:
        """Let other programs run before the current one reads or changes a value."""
        me = self.current
        self._waits[me] = value, line
        self._pass(self._next())
        self._polled[me] = self._changes
        del self._waits[me]

    def changed(self) -> None:
        """Record that an atomic changed a value, so that waiting programs poll again."""
        self._changes += 1
        self._rounds = 0

    def _next(self) -> int:
        """Choose the next program at random, if possible one that has a change to see."""
        ready = [p for p in sorted(self._alive) if self._polled.get(p) != self._changes]
        if not ready:
            self._rounds += 1
            if self._rounds > _MAX_IDLE_ROUNDS:
                raise Deadlock(f"no program can go on{self.advice}{self._state()}")
            self._polled.clear()
            ready = sorted(self._alive)
        return self._random.choice(ready)

    def _state(self) -> str:
        """Return a line per program: where it waits, or whether it has finished or not begun."""
        lines = []
        for program, name in enumerate(self.names):
            if program in self._waits:
                value, line = self._waits[program]
                lines.append(f"{name} waits at {value()}, {format_line(line)}")
            else:
                state = "has finished" if program in self._finished else "has not begun"
                lines.append(f"{name} {state}")
        return "".join(f"\n  {line}" for line in lines)

    def _pass(self, program: int) -> None:
        """Switch to a program. Without threads that is always the current one."""


class Threads(InOrder):
    """Runs each program as a thread, one at a time. A switch may happen before every atomic."""

    advice = ""

    def run(self, body: Callable[[int], None]) -> None:
        programs = range(len(self.names))
        self._alive = set(programs)
        self._turns = [threading.Event() for _ in programs]
        self._error: BaseException | None = None
        threads = [
            threading.Thread(target=self._run_one, args=(p, body), daemon=True) for p in programs
        ]
        for thread in threads:
            thread.start()
        if threads:
            self._wake(self._next())
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def _run_one(self, program: int, body: Callable[[int], None]) -> None:
        try:
            self._await(program)
            body(program)
            self._finished.add(program)
            self._alive.discard(program)
            if self._alive:
                self._wake(self._next())
        except _Halt:
            pass
        except BaseException as error:
            self._error = error
            for turn in self._turns:
                turn.set()

    def _pass(self, program: int) -> None:
        me = self.current
        if program != me:
            self._wake(program)
            self._await(me)

    def _wake(self, program: int) -> None:
        self.turns += 1
        self.current = program
        self._turns[program].set()

    def _await(self, program: int) -> None:
        self._turns[program].wait()
        self._turns[program].clear()
        if self._error is not None:
            raise _Halt
