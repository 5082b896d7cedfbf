"""One checked launch: a kernel, the memory that its arguments form, and its programs."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter
from triton.runtime.interpreter import (
    GridExecutor,
    InterpretedFunction,
    _implicit_cvt,
    interpreter_builder,
)

from ..interpreter.faults import Unwritten
from ..interpreter.schedule import InOrder, Threads
from .access_checks import AccessChecker
from .memory import Memory, View

# output arguments, by name or as tensors
Outputs = Collection[str | torch.Tensor]


@dataclass(frozen=True)
class Report:
    """Counts of a launch without faults: programs, operations per kind, and thread switches."""

    kernel: str
    programs: int
    loads: int
    stores: int
    atomics: int
    turns: int


class CheckedLaunch:
    """A kernel with its arguments, ready to run under the checker."""

    def __init__(
        self,
        function: InterpretedFunction,
        grid: tuple[int, ...],
        args: tuple[Any, ...],
        constants: dict[str, Any],
    ):
        self.name, self._grid = function.__name__, grid
        self._body = function.rewrite()
        known = inspect.signature(self._body).parameters  # num_warps and the like are not
        constants = {name: value for name, value in constants.items() if name in known}
        self._bound = inspect.getcallargs(self._body, *args, **constants)
        self._fixed = GridExecutor(self._body, function.arg_names, grid).constexprs
        tensors = [found for name, arg in self._bound.items() for found in _tensors(name, arg)]
        self._memory = Memory(dict(tensors))

    def output_views(self, outputs: Outputs | Mapping[str, Outputs]) -> list[View]:
        """Return the arguments that are outputs.

        Raises ValueError if outputs are given for this kernel by name and one is missing.
        """
        mine = outputs.get(self.name, ()) if isinstance(outputs, Mapping) else outputs
        found = [v for v in self._memory.views if any(_matches(v, output) for output in mine)]
        if isinstance(outputs, Mapping) and len(found) < len(mine):
            tensors = ", ".join(v.name for v in self._memory.views)
            raise ValueError(f"not all outputs of {self.name} are among its tensors: {tensors}")
        return found

    def run(
        self, outputs: list[View], threads: bool, seed: int, written: bool | Collection[str]
    ) -> Report:
        """Run every program. Raises the first fault, or `Unwritten` at the end."""
        for view in outputs:
            self._memory.poison(view)
        index = list(np.ndindex(*self._whole_grid()))
        flat = len(self._grid) == 1
        names = [f"program {i[0] if flat else i[: len(self._grid)]}" for i in index]
        schedule = (Threads if threads else InOrder)(names, seed)
        checker = AccessChecker(self._memory, schedule, index)
        self._run(schedule, checker)
        for view in outputs:
            if written if isinstance(written, bool) else view.name in written:
                self._check_complete(view)
        loads, stores, atomics = (checker.counts[kind] for kind in ("load", "store", "atomic"))
        return Report(self.name, len(index), loads, stores, atomics, schedule.turns)

    def _run(self, schedule: InOrder, checker: AccessChecker) -> None:
        scope = interpreter._patch_lang(self._body)
        try:
            interpreter_builder.set_grid_dim(*self._whole_grid())
            args = {
                name: arg if name in self._fixed else self._converted(name, arg)
                for name, arg in self._bound.items()
            }

            def body(program: int) -> None:
                checker.begin(program)
                with np.errstate(all="ignore"):  # a GPU does not warn of overflow
                    self._body(**args)

            with checker.installed():
                schedule.run(body)
        finally:
            scope.restore()

    def _whole_grid(self) -> tuple[int, ...]:
        return *self._grid, *[1] * (3 - len(self._grid))

    def _converted(self, name: str, arg: Any) -> Any:
        """Return an argument as the interpreter takes it, a tensor as its simulated address."""
        if isinstance(arg, tuple):
            items = [self._converted(f"{name}[{i}]", item) for i, item in enumerate(arg)]
            return type(arg)(*items) if hasattr(arg, "_fields") else type(arg)(items)
        converted = _implicit_cvt(arg)
        if isinstance(arg, torch.Tensor):
            (base,) = (v.base for v in self._memory.views if v.name == name)
            converted.handle.data = np.array([base], np.uint64)
        return converted

    def _check_complete(self, view: View) -> None:
        """Raise `Unwritten` unless every element of an output was stored."""
        unset = self._memory.unset[view.cells()].any(-1)
        if unset.any():
            first = ", ".join(map(str, np.argwhere(unset)[0]))
            raise Unwritten(
                f"no program stored {unset.sum()} of {unset.size} elements of output "
                f"{view.name!r}, the first {view.name}[{first}]"
            )


def _tensors(name: str, arg: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in an argument with their names. Raises ValueError if one is on a GPU."""
    if isinstance(arg, torch.Tensor):
        if arg.device.type != "cpu":
            raise ValueError(f"{name} is on {arg.device}: kernels are checked on the CPU")
        yield name, arg
    elif isinstance(arg, tuple):
        for i, item in enumerate(arg):
            yield from _tensors(f"{name}[{i}]", item)


def _matches(view: View, output: str | torch.Tensor) -> bool:
    return view.name == output if isinstance(output, str) else view.argument is output
