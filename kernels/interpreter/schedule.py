"""The order in which programs run: one after another, or in turns that end at atomics."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from .faults import Deadlock, Line, shown

_PATIENCE = 100  # fruitless polls of each waiting program before it is a deadlock


class _Halt(BaseException):
    """Ends a program's thread after a fault elsewhere; no `except Exception` may catch it."""


class InOrder:
    """Programs run one after another; none can wait for a later one."""

    advice = "; run with threads=True if programs wait for one another"

    def __init__(self, names: list[str], seed: int):
        self.names = names
        self.current = 0
        self.turns = 0
        self._random = random.Random(seed)
        self._alive: set[int] = set()
        self._waits: dict[int, tuple[Callable[[], str], Line]] = {}
        self._finished: set[int] = set()
        self._changes = 0  # how often an atomic has changed a value
        self._polled: dict[int, int] = {}  # the changes that a program had seen when it last polled
        self._rounds = 0

    def run(self, body: Callable[[int], None]) -> None:
        """Run `body(program)` for every program."""
        for program in range(len(self.names)):
            self.current, self._alive = program, {program}
            body(program)
            self._finished.add(program)

    def poll(self, value: Callable[[], str], line: Line) -> None:
        """The current program is about to look at a value, or change it: others may run before."""
        me = self.current
        self._waits[me] = value, line
        self._pass(self._next())
        self._polled[me] = self._changes
        del self._waits[me]

    def changed(self) -> None:
        """An atomic has changed a value: whoever waits may look again."""
        self._changes += 1
        self._rounds = 0

    def _next(self) -> int:
        """Who runs now: anyone, but rather not who looked already and waits for a change."""
        ready = [p for p in sorted(self._alive) if self._polled.get(p) != self._changes]
        if not ready:
            self._rounds += 1
            if self._rounds > _PATIENCE:
                raise Deadlock(f"no program can go on{self.advice}{self._state()}")
            self._polled.clear()
            ready = sorted(self._alive)
        return self._random.choice(ready)

    def _state(self) -> str:
        """A line for every program: where it waits, or that it has finished or not begun."""
        lines = []
        for program, name in enumerate(self.names):
            if program in self._waits:
                value, line = self._waits[program]
                lines.append(f"{name} waits at {value()}, {shown(line)}")
            else:
                state = "has finished" if program in self._finished else "has not begun"
                lines.append(f"{name} {state}")
        return "".join(f"\n  {line}" for line in lines)

    def _pass(self, program: int) -> None:
        """Give the turn to a program; in order, that is always the one that has it."""


class Threads(InOrder):
    """Every program is a thread; one runs at a time, and its turn may end before every atomic."""

    advice = ""

    def run(self, body: Callable[[int], None]) -> None:
        programs = range(len(self.names))
        self._alive = set(programs)
        self._turns = [threading.Event() for _ in programs]
        self._error: BaseException | None = None
        lives = [threading.Thread(target=self._live, args=(p, body), daemon=True) for p in programs]
        for thread in lives:
            thread.start()
        if lives:
            self._wake(self._next())
        for thread in lives:
            thread.join()
        if self._error is not None:
            raise self._error

    def _live(self, program: int, body: Callable[[int], None]) -> None:
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
