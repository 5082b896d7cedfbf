"""The kernel checker: runs kernels unmodified on the CPU and raises an error for each fault.

It finds accesses out of bounds, races, reads of unset elements, outputs left unset and deadlocks.
Programs run one after another, or as threads that take turns in a seeded random order, which lets
programs wait for each other. `run` checks one kernel, `checking` every launch of a model:

    report = simulate.run(kernel, (4,), x, out, 100, outputs=["out"], BLOCK=32)
    with simulate.checking(["out"]) as reports:
        model(x)
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
from .launch import CheckedLaunch, Outputs, Report

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
    outputs: Outputs = (),
    threads: bool = False,
    seed: int = 0,
    written: bool | Collection[str] = True,
    **constants: Any,
) -> Report:
    """Run `kernel[grid](*args, **constants)` on CPU tensors and return what it did.

    `outputs` are arguments, by name or as tensors, that hold no values before the launch. They are
    filled with NaN or the largest integer, and must not be read before they are stored. All
    outputs, or those named in `written`, must be stored in full. With `threads`, programs take
    turns in an order that `seed` decides. Raises a subclass of `KernelFault` for the first fault,
    and ValueError if `written` names an argument that the kernel does not have.
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
    outputs: Outputs | Mapping[str, Outputs] = (),
    *,
    threads: bool = True,
    seed: int = 0,
    written: bool | Collection[str] = True,
) -> Iterator[list[Report]]:
    """Check every launch by `interpreter.launch` as `run` does; yields the list of their reports.

    `outputs` maps kernel names to output arguments, or is one collection for all kernels.
    """
    reports: list[Report] = []

    def runner(
        function: InterpretedFunction,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
    ) -> None:
        launch = CheckedLaunch(function, grid, args, constants)
        try:
            reports.append(launch.run(launch.output_views(outputs), threads, seed, written))
        except Exception as error:
            fault = fault_behind(error)
            if fault is None:
                raise
            raise type(fault)(f"{launch.name}: {fault}") from None

    with interpreter.launches_run_by(runner):
        yield reports
