"""Run a kernel whose programs wait for each other by Triton's interpreter on a CPU.

Each program has a thread. One runs at a time, and another may continue at every atomic.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import numpy as np
from triton.runtime import interpreter
from triton.runtime.interpreter import (
    GridExecutor,
    InterpretedFunction,
    InterpreterBuilder,
    _implicit_cvt,
)

from .faults import kernel_line
from .interpreter import launch as interpret
from .interpreter import launches_run_by, runner_replaced
from .schedule import Threads

_BUILDER = interpreter.interpreter_builder


def launch(function: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run `function[grid](*args, **constants)` with interleaved programs.

    If a checker runs launches, it decides how programs are interleaved.
    """
    with nullcontext() if runner_replaced() else launches_run_by(run):
        interpret(function, grid, *args, **constants)


def run(
    function: InterpretedFunction,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    """Run all programs of `function[grid](*args, **constants)` on CPU tensors, interleaved.

    Raises `Deadlock` if no program can continue.
    """
    body = function.rewrite()
    known = inspect.signature(body).parameters
    constants = {name: value for name, value in constants.items() if name in known}
    bound = inspect.getcallargs(body, *args, **constants)
    fixed = GridExecutor(body, function.arg_names, grid).constexprs
    whole = (*grid, *[1] * (3 - len(grid)))
    index = list(np.ndindex(*whole))
    programs = _Interleaving([f"program {position}" for position in index], index)
    scope = interpreter._patch_lang(body)
    try:
        _BUILDER.set_grid_dim(*whole)
        given = {k: x if k in fixed else _implicit_cvt(x) for k, x in bound.items()}
        programs.run(body, given)
    finally:
        scope.restore()


class _Interleaving:
    """The programs of one launch, which switch at atomics."""

    def __init__(self, names: list[str], index: list[tuple[int, ...]]):
        self.index = index
        self.schedule = Threads(names, seed=0)

    def run(self, body: Any, given: dict[str, Any]) -> None:
        def program(number: int) -> None:
            _BUILDER.grid_idx = self.index[number]
            with np.errstate(all="ignore"):
                body(**given)

        atomics = ("create_atomic_rmw", "create_atomic_cas")
        vars(_BUILDER).update({name: self._switching(name) for name in atomics})
        try:
            self.schedule.run(program)
        finally:
            for name in atomics:
                del vars(_BUILDER)[name]

    def _switching(self, name: str) -> Any:
        """Return an atomic that lets other programs run before it and wakes waiting programs."""

        def atomic(*args: Any) -> Any:
            schedule, me = self.schedule, self.schedule.current
            schedule.poll(lambda: "an atomic", kernel_line())
            _BUILDER.grid_idx = self.index[me]
            found = getattr(InterpreterBuilder, name)(_BUILDER, *args)
            value = args[2]
            if value.data.any():
                schedule.changed()
            return found

        return atomic
