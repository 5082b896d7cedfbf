"""Where in the user's own code a node was made: the file and line that errors and plans name."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from dataclasses import dataclass

import torch

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
_EXAMPLES = _HERE + "examples" + os.sep
# frozen modules, and those of Python's library that torch goes through
_SYSTEM = ("<frozen", contextlib.__file__)


@dataclass(frozen=True, slots=True)
class Site:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


def user_site() -> Site | None:
    """The innermost frame that is neither graphnn's nor torch's: the line the user wrote."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return Site(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def raised_at(error: BaseException) -> Site | None:
    """The innermost line of the user's that an error came through."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [Site(f.f_code.co_filename, n) for f, n in frames if is_users(f.f_code.co_filename)]
    return lines[-1] if lines else None


def is_users(file: str) -> bool:
    """Whether a file is neither graphnn's own nor torch's."""
    ours = file.startswith(_HERE) and not file.startswith(_EXAMPLES)
    return not ours and not file.startswith(_TORCH) and not file.startswith(_SYSTEM)
