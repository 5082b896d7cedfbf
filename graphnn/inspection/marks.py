"""Where the time of a call goes: marks between the parts of a model's generated code, clocks around
its loops' backwards and its kernels. The code that runs is the model's own, line for line."""

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
    """Moments on a CPU; `between` two of them are seconds."""

    def now(self) -> Any:
        """This moment."""
        return time.perf_counter()

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one to another."""
        return float(end - start)

    def wait(self) -> None:
        """Until all that was begun has ended."""


class CudaClock(Clock):
    """Moments on the current GPU's stream. Not run on a GPU yet."""

    def now(self) -> Any:
        """An event in the stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one event to another, once both have passed."""
        return float(start.elapsed_time(end)) * 1e-3

    def wait(self) -> None:
        """Until the GPU is idle."""
        torch.cuda.synchronize()


@dataclass
class Trail:
    """What a call left: moments of marks, and spans of backwards and kernels by name."""

    clock: Clock
    begin: Any = None
    turn: Any = None
    end: Any = None
    marks: list[Any] = field(default_factory=list)
    backwards: list[tuple[str, Any, Any]] = field(default_factory=list)
    kernels: list[tuple[str, Any, Any]] = field(default_factory=list)

    def parts(self) -> list[float]:
        """Seconds of each part of the forward, the lines that take arguments apart first."""
        return [self.clock.between(a, b) for a, b in pairwise(self.marks)]

    def spans(self, which: list[tuple[str, Any, Any]]) -> dict[str, float]:
        """Seconds by name, of all its spans together."""
        found: dict[str, float] = {}
        for name, start, end in which:
            found[name] = found.get(name, 0.0) + self.clock.between(start, end)
        return found


def marked(program: Program, mark: Callable[[], None]) -> Any:
    """A program's `main` that calls `mark` at its beginning and after each of its parts."""
    return load(program.marked("mark"), "main", {**program.main.__globals__, "mark": mark})


@contextlib.contextmanager
def watched(program: Program, trail: Trail) -> Iterator[None]:
    """While the block runs, calls of a program leave their trail."""
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
    """While the block runs, launches of kernels leave their spans."""
    module = sys.modules.get(
        "graphnn.kernels.runtime.launch"
    )  # imported where a program has kernels
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
