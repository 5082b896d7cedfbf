"""Source locations: the line of the user's code that made a node, named by errors and plans."""

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
# frozen modules, and modules of the standard library that torch calls through
_SYSTEM = ("<frozen", contextlib.__file__)


@dataclass(frozen=True, slots=True)
class Site:
    """A line of a file, shown as `file.py:12`."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{os.path.basename(self.file)}:{self.line}"


def user_site() -> Site | None:
    """The line of the innermost frame that belongs neither to graphnn nor to torch, or None."""
    frame = sys._getframe(1)
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return Site(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def raised_at(error: BaseException) -> Site | None:
    """The innermost line of the user's code in an error's traceback, or None."""
    frames = traceback.walk_tb(error.__traceback__)
    lines = [Site(f.f_code.co_filename, n) for f, n in frames if is_users(f.f_code.co_filename)]
    return lines[-1] if lines else None


def is_users(file: str) -> bool:
    """Whether a file belongs neither to graphnn nor to torch; examples count as the user's."""
    ours = file.startswith(_HERE) and not file.startswith(_EXAMPLES)
    return not ours and not file.startswith(_TORCH) and not file.startswith(_SYSTEM)
