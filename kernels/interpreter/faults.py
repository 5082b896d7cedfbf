"""Exceptions for what a kernel does wrong, and the line of the kernel that did it."""

from __future__ import annotations

import linecache
import os
import sys
from types import FrameType

_PACKAGE = (__package__ or "graphnn.kernels.interpreter").rpartition(".")[0]
_SKIPPED = ("triton.", f"{_PACKAGE}.interpreter.", f"{_PACKAGE}.simulate")


class KernelFault(RuntimeError):
    """A kernel did something invalid. The message names the kernel, its line and the argument."""


class OutOfBounds(KernelFault):
    """An unmasked lane accesses memory outside the tensor that its pointer comes from."""


class Race(KernelFault):
    """Two programs, or two lanes of a store, access one element and nothing orders them."""


class Unwritten(KernelFault):
    """No program stored some elements of an output."""


class Uninitialised(KernelFault):
    """A program read an element of an output before any program stored it."""


class Deadlock(KernelFault):
    """Every unfinished program waits for a value that no program will store."""


# a file and the number of a line in it
SourceLine = tuple[str, int]


def kernel_line() -> SourceLine:
    """Return the file and line that runs now in the kernel, or in a jitted function it called."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_SKIPPED):
        frame = frame.f_back
    return (frame.f_code.co_filename, frame.f_lineno) if frame is not None else ("", 0)


def format_line(line: SourceLine) -> str:
    """Return a line as `file:number: text`."""
    path, number = line
    return f"{os.path.basename(path)}:{number}: {linecache.getline(path, number).strip()}"


def fault_behind(error: BaseException | None) -> KernelFault | None:
    """Return the fault that the interpreter wrapped in its own errors, or None."""
    while error is not None and not isinstance(error, KernelFault):
        error = error.__cause__
    return error
