"""The versions that a verdict on a kernel depends on: torch, Triton, its assembler, the driver.

A verdict also depends on how results are compared, which has a number of its own.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

import torch
import triton

# to be raised if `compare` or `cut` judge otherwise: every kernel is then checked again
METHOD = "1"
_DRIVER = Path("/proc/driver/nvidia/version")


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of what compiles and runs kernels here, by name."""
    return {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "ptxas": _assembler(),
        "driver": _driver(),
        "method": METHOD,
    }


def _assembler() -> str:
    """Return the version of Triton's assembler, and its path if it is not Triton's own."""
    try:
        tool = triton.knobs.nvidia.ptxas
        version = str(tool.version)
    except (AttributeError, RuntimeError, OSError):
        version = ""  # a Triton without this interface, or without an assembler
    return " ".join(filter(None, (version, os.environ.get("TRITON_PTXAS_PATH", ""))))


def _driver() -> str:
    """Return the version of the driver: the module's in full, or else that of its interface."""
    try:
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", _DRIVER.read_text())
    except OSError:
        found = None
    if found is not None:
        return found.group()
    return str(getattr(torch._C, "_cuda_getDriverVersion", str)())
