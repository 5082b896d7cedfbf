"""What a kernel can do wrong, as exceptions, and the line of the kernel that did it."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

_PACKAGE = (__package__ or "graphnn.kernels.interpreter").rpartition(".")[0]
_SKIPPED = ("triton.", f"{_PACKAGE}.interpreter.", f"{_PACKAGE}.simulate")


class KernelFault(RuntimeError):
    """A kernel did what it must not; the message names the kernel, its line and the argument."""


class OutOfBounds(KernelFault):
    """A load, store or atomic of an unmasked lane outside the tensor its pointer came from."""


class Race(KernelFault):
    """Two programs, or two lanes of a store, touch one element and nothing orders them."""


class Unwritten(KernelFault):
    """An output was left with elements that no program stored."""


class Uninitialised(KernelFault):
    """An element of an output was read before any program stored it."""


class Deadlock(KernelFault):
    """Every program that has not finished waits for a value that none will store."""


Line = tuple[str, int]


def kernel_line() -> Line:
    """File and line of the kernel, or of the jitted function it called, that runs now."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_SKIPPED):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)


def shown(line: Line) -> str:
    """A line as `file:number: text`."""
    path, number = line
    return f"{os.path.basename(path)}:{number}: {linecache.getline(path, number).strip()}"


def fault_behind(error: BaseException | None) -> KernelFault | None:
    """The fault that the interpreter wrapped in errors of its own, if there is one."""
    while error is not None and not isinstance(error, KernelFault):
        error = error.__cause__
    return error
