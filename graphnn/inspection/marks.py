"""Times the parts of a call, by marks between the parts of a program's generated code.

Clocks run around the backward of each loop and around each kernel. The code that runs is that of
the program, line for line, with the marks.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

from graphnn.backends.torch.codegen.loading import load
from graphnn.backends.torch.program import Program


class Clock:
    """The clock of a CPU: moments, and the seconds between two of them."""

    def now(self) -> Any:
        """The present moment."""
        return time.perf_counter()

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one moment to another."""
        return float(end - start)

    def wait(self) -> None:
        """Wait until all work that was started has ended."""


class CudaClock(Clock):
    """The clock of the current GPU's stream. It has not been run on a GPU yet."""

    def now(self) -> Any:
        """An event in the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one event to another, once both have passed."""
        return float(start.elapsed_time(end)) * 1e-3

    def wait(self) -> None:
        """Wait until the GPU is idle."""
        torch.cuda.synchronize()


@dataclass
class Trail:
    """The record of a call: moments of marks, and spans of backwards and kernels by name."""

    clock: Clock
    begin: Any = None
    turn: Any = None
    end: Any = None
    marks: list[Any] = field(default_factory=list)
    backwards: list[tuple[str, Any, Any]] = field(default_factory=list)
    kernels: list[tuple[str, Any, Any]] = field(default_factory=list)

    def parts(self) -> list[float]:
        """Seconds of each part of the forward. The first part reads the arguments."""
        return [self.clock.between(a, b) for a, b in pairwise(self.marks)]

    def spans(self, which: list[tuple[str, Any, Any]]) -> dict[str, float]:
        """Seconds by name, summed over its spans."""
        found: dict[str, float] = {}
        for name, start, end in which:
            found[name] = found.get(name, 0.0) + self.clock.between(start, end)
        return found


def marked(program: Program, mark: Callable[[], None]) -> Any:
    """A program's `main` that calls `mark` at its beginning and after each of its parts."""
    return load(program.marked("mark"), "main", {**program.main.__globals__, "mark": mark})


@contextlib.contextmanager
def watched(program: Program, trail: Trail) -> Iterator[None]:
    """Record calls of a program in a trail while the block runs."""
    main, clock = program.main, trail.clock
    backwards = [(loop, f) for loop in program.loops for f in loop._backwards.values()]
    calls = [f.call for _, f in backwards]
    program.main = marked(program, lambda: trail.marks.append(clock.now()))
    for loop, function in backwards:  # two loops may have functions of one name
        function.call = _spanned(function.call, loop.key, trail.backwards, clock)
    try:
        with _launches(trail):
            yield
    finally:
        program.main = main
        for (_, function), call in zip(backwards, calls):
            function.call = call


@contextlib.contextmanager
def _launches(trail: Trail) -> Iterator[None]:
    """Record launches of kernels in a trail while the block runs."""
    module = sys.modules.get(
        "graphnn.kernels.runtime.launch"
    )  # imported only if a program has kernels
    if module is None:
        yield
        return
    launcher, kernel = module.Launcher, module.Launcher._run
    launcher._run = lambda self, *args: _spanned(
        lambda *a: kernel(self, *a), self.source.name, trail.kernels, trail.clock
    )(*args)
    try:
        yield
    finally:
        launcher._run = kernel


def _spanned(
    call: Callable[..., Any], name: str, spans: list[tuple[str, Any, Any]], clock: Clock
) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        start = clock.now()
        result = call(*args)
        spans.append((name, start, clock.now()))
        return result

    return timed
