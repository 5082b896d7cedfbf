"""The warning of a kernel that was refused, and the error that stops it from running."""

from __future__ import annotations

import torch


class KernelWarning(UserWarning):
    """A kernel failed the check of its first use; something slower runs instead.

    The text names layer, kernel, Triton's version, target, and the error or the numbers.
    """


class KernelRefused(RuntimeError):
    """A kernel that does not run: it failed its check, now or in an earlier process."""


class DeviceLost(RuntimeError):
    """A kernel left its GPU unusable for this process. It is refused in later ones."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error only says that memory is full: nothing is wrong with a kernel."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def summary(error: BaseException) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
