"""The checker of kernels: runs them on the CPU, unmodified, and raises what they do wrong.

Programs run one after another, or in seeded random turns so that those that wait for one another
can; see `run` for one kernel and `checking` for every launch of a whole model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from triton.runtime.interpreter import InterpretedFunction

from ..interpreter import interpreter
from ..interpreter.faults import (
    Deadlock,
    KernelFault,
    OutOfBounds,
    Race,
    Uninitialised,
    Unwritten,
    fault_behind,
)
from .launch import Launch, Names, Report

__all__ = [
    "Deadlock",
    "KernelFault",
    "OutOfBounds",
    "Race",
    "Report",
    "Uninitialised",
    "Unwritten",
    "checking",
    "run",
]


def run(
    kernel: Any,
    grid: tuple[int, ...],
    /,
    *args: Any,
    outputs: Names = (),
    threads: bool = False,
    seed: int = 0,
    written: bool | Collection[str] = True,
    **constants: Any,
) -> Report:
    """Run `kernel[grid](*args, **constants)` on CPU tensors; raises a `KernelFault`.

    `outputs` are arguments, by name or as tensors, that have no values before: they are poisoned,
    must not be read before they are stored, and must be stored in full, all of them or those named
    by `written`. With `threads`, programs take turns in an order that `seed` decides.
    """
    function = interpreter.interpreted(kernel)
    if not isinstance(written, bool) and (unknown := {*written} - {*function.arg_names}):
        raise ValueError(f"{function.__name__} has no arguments {sorted(unknown)}")
    with checking(
        {function.__name__: outputs}, threads=threads, seed=seed, written=written
    ) as reports:
        interpreter.launch(kernel, grid, *args, **constants)
    return reports[-1]


@contextmanager
def checking(
    outputs: Names | Mapping[str, Names] = (),
    *,
    threads: bool = True,
    seed: int = 0,
    written: bool | Collection[str] = True,
) -> Iterator[list[Report]]:
    """Launches made by `interpreter.launch` are checked as by `run`; yields their reports.

    `outputs` are argument names, by kernel, or the same for every kernel that has such arguments.
    """
    reports: list[Report] = []

    def runner(
        function: InterpretedFunction,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
    ) -> None:
        launch = Launch(function, grid, args, constants)
        try:
            reports.append(launch.run(launch.chosen(outputs), threads, seed, written))
        except Exception as error:
            fault = fault_behind(error)
            if fault is None:
                raise
            raise type(fault)(f"{launch.name}: {fault}") from None

    with interpreter.running_by(runner):
        yield reports
