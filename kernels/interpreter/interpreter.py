"""Run a kernel on the CPU by Triton's interpreter, independently of TRITON_INTERPRET.

Triton decides at import whether its own library (`tl.sum`, `tl.zeros` …) is interpreted. Here this
is decided per launch, so that one process can interpret some kernels and compile others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, mangle_type

from .fast_paths import fast_interpreter, to_interpreted
from .language import language_interpreted

# imports what Triton loads lazily: that must not happen while its library is replaced
mangle_type(0)
# the interpreter patches triton.language while it runs: one launch at a time
_RUNNING = threading.RLock()

LaunchRunner = Callable[
    [InterpretedFunction, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None
]


def interpreted(function: Any) -> InterpretedFunction:
    """Return a `@triton.jit` function as the interpreter's own type of function."""
    if isinstance(function, InterpretedFunction):
        return function
    known = vars(function.fn)  # a table would keep both alive
    if "interpreted" not in known:
        known["interpreted"] = to_interpreted(function)
    return known["interpreted"]  # type: ignore[no-any-return]


def launch(function: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run `function[grid](*args, **constants)` program by program on CPU tensors."""
    # a GPU does not warn about 0 / 0 in rows that are masked out
    with (
        _RUNNING,
        np.errstate(all="ignore"),
        _library_interpreted(),
        _globals_interpreted(function),
    ):
        _RUNNERS[-1](interpreted(function), grid, args, constants)


@contextmanager
def launches_run_by(runner: LaunchRunner) -> Iterator[None]:
    """Run launches by `runner` instead of the interpreter: a checker sees all launches this way."""
    _RUNNERS.append(runner)
    try:
        yield
    finally:
        _RUNNERS.pop()


def runner_replaced() -> bool:
    """Return whether something other than the interpreter itself runs launches."""
    return len(_RUNNERS) > 1


def _run(
    function: InterpretedFunction,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    function.run(*args, grid=grid, warmup=False, **constants)


_RUNNERS: list[LaunchRunner] = [_run]


@contextmanager
def _library_interpreted() -> Iterator[None]:
    """Interpret the functions of Triton's library that are written in Triton."""
    libraries = (tl.standard, tl.random, tl)
    with ExitStack() as stack:
        for library in libraries:
            stack.enter_context(_members_interpreted(vars(library)))
        for patch in (language_interpreted, _bfloat16_rounding, fast_interpreter):
            stack.enter_context(patch())
        yield


@contextmanager
def _globals_interpreted(function: Any) -> Iterator[None]:
    """Interpret the jitted functions of a kernel's module, and those that these functions call."""
    names = interpreted(function).fn.__globals__
    called = (m.fn.__globals__ for m in names.values() if isinstance(m, JITFunction))
    modules = {id(x): x for x in (names, *called)}
    with ExitStack() as stack:
        for module in modules.values():
            stack.enter_context(_members_interpreted(module))
        yield


@contextmanager
def _members_interpreted(names: dict[str, Any]) -> Iterator[None]:
    """Replace the jitted functions among `names` by interpreted ones."""
    found = {name: member for name, member in names.items() if isinstance(member, JITFunction)}
    names.update({name: interpreted(member) for name, member in found.items()})
    try:
        yield
    finally:
        names.update(found)


@contextmanager
def _bfloat16_rounding() -> Iterator[None]:
    """Round to nearest as a GPU does. Triton's interpreter truncates float32 to bfloat16."""
    convert = interpreter._convert_float

    def patched(data: np.ndarray, source: Any, target: Any, mode: Any) -> np.ndarray:
        if (source, target) == (tl.float32, tl.bfloat16):
            return _bfloat16(np.ascontiguousarray(data).view(np.uint32))
        if (source, target) == (tl.bfloat16, tl.float32):
            return np.ascontiguousarray(data).view(np.uint16).astype(np.uint32) << 16
        return convert(data, source, target, mode)

    interpreter._convert_float = patched
    try:
        yield
    finally:
        interpreter._convert_float = convert


def _bfloat16(bits: np.ndarray) -> np.ndarray:
    """Return float32 bits rounded to bfloat16 bits, ties to even; NaN stays NaN."""
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)
