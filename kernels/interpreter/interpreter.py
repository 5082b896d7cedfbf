"""Running a kernel on the CPU by Triton's interpreter, whatever TRITON_INTERPRET says.

Triton decides at import whether its own library (`tl.sum`, `tl.zeros` …) is interpreted; here that
is decided a launch, so that one process can interpret some kernels and compile others.
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

from .fast_paths import interpretable, thrifty

# imports what Triton loads late, which must not happen while its library is replaced
mangle_type(0)
# the interpreter patches triton.language while it runs: one launch at a time
_RUNNING = threading.RLock()

Runner = Callable[[InterpretedFunction, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]


def interpreted(function: Any) -> InterpretedFunction:
    """A `@triton.jit` function as the interpreter's own kind of function."""
    if isinstance(function, InterpretedFunction):
        return function
    known = vars(function.fn)  # a table would keep both alive
    if "interpreted" not in known:
        known["interpreted"] = interpretable(function)
    return known["interpreted"]  # type: ignore[no-any-return]


def launch(function: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Run `function[grid](*args, **constants)` program by program on CPU tensors."""
    # a GPU does not warn of 0 / 0 in rows that are masked out
    with _RUNNING, np.errstate(all="ignore"), _library(), _called(function):
        _RUNNERS[-1](interpreted(function), grid, args, constants)


@contextmanager
def running_by(runner: Runner) -> Iterator[None]:
    """Launches are run by `runner` instead: how a checker sees every launch of a model."""
    _RUNNERS.append(runner)
    try:
        yield
    finally:
        _RUNNERS.pop()


def watched() -> bool:
    """Whether launches are run by something else than the interpreter itself."""
    return len(_RUNNERS) > 1


def _run(
    function: InterpretedFunction,
    grid: tuple[int, ...],
    args: tuple[Any, ...],
    constants: dict[str, Any],
) -> None:
    function.run(*args, grid=grid, warmup=False, **constants)


_RUNNERS: list[Runner] = [_run]


@contextmanager
def _library() -> Iterator[None]:
    """Triton's own functions written in Triton, interpreted too."""
    libraries = (tl.standard, tl.random, tl)
    with ExitStack() as stack:
        for library in libraries:
            stack.enter_context(_swapped(vars(library)))
        for patch in (_indexing, _rounding, thrifty):
            stack.enter_context(patch())
        yield


@contextmanager
def _called(function: Any) -> Iterator[None]:
    """The jitted functions that a kernel's module defines, interpreted too."""
    with _swapped(interpreted(function).fn.__globals__):
        yield


@contextmanager
def _swapped(names: dict[str, Any]) -> Iterator[None]:
    """Jitted functions among `names` replaced by interpreted ones."""
    found = {name: member for name, member in names.items() if isinstance(member, JITFunction)}
    names.update({name: interpreted(member) for name, member in found.items()})
    try:
        yield
    finally:
        names.update(found)


@contextmanager
def _indexing() -> Iterator[None]:
    """Triton 3.6 reads one-element arrays in a way that numpy 2.4 refuses."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
    try:
        yield
    finally:
        interpreter._patch_lang_tensor = patch


@contextmanager
def _rounding() -> Iterator[None]:
    """Triton's interpreter cuts the digits off that bfloat16 lacks; a GPU rounds to nearest."""
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
    """The bits of bfloat16 numbers nearest to float32 ones, ties to even; NaN stays NaN."""
    nan = (bits & 0x7FFFFFFF) > 0x7F800000
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype(np.uint16)
