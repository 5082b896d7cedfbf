"""The requirements of backends in addition to PyTorch: Triton, for kernels."""

from __future__ import annotations

import functools
import importlib.util
import warnings

from graphnn.errors import BackendError
from graphnn.kernels.feasibility.targets import refusal

# The versions of Triton with which the kernels were compiled and the suite's sample was run:
# bench/results/versions.json has the checks, and a test compares. torch 2.9 needs the oldest.
TESTED_TRITON = ("3.5", "3.6", "3.7", "3.8", "3.9")


def has_triton() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def need_triton(backend: str) -> None:
    """Raise BackendError if Triton, which the kernels of a backend require, is not installed."""
    if not has_triton():
        raise BackendError(
            f"backend '{backend}' runs Triton kernels, and Triton is not installed",
            got="no module named 'triton'",
            wanted=f"triton {TESTED_TRITON[0]} or newer, which exists for Linux",
            fix="pip install triton, or compile with backend='torch'",
        )


def need_gpu(backend: str, target: str) -> None:
    """Raise BackendError if a GPU, given by its target, is too old for kernels."""
    if target and (why := refusal(target)):
        raise BackendError(
            f"backend '{backend}' has no kernels for this GPU",
            got=target,
            wanted=why,
            fix="compile with backend='auto' or 'torch'",
        )


def is_tested(version: str) -> bool:
    """Whether kernels were checked with this version of Triton, or another patch of it."""
    return ".".join(version.split(".")[:2]) in TESTED_TRITON


@functools.cache
def warn_if_untested() -> None:
    """Warn once if the kernels were not checked with the installed version of Triton."""
    import triton

    if not is_tested(triton.__version__):
        warnings.warn(
            f"graphnn's kernels were not checked with Triton {triton.__version__}, but with "
            f"{', '.join(TESTED_TRITON)}: a kernel may fail to compile. The Triton that a torch "
            "of 2.9 to 2.15 brings is among these; backend='torch' needs none.",
            stacklevel=2,
        )


@functools.cache
def warn_if_missing() -> None:
    """Warn once that loops on a GPU are torch code because Triton is not installed."""
    if not has_triton():
        warnings.warn(
            "Triton is not installed, so that loops on this GPU are PyTorch calls for each step "
            "instead of one kernel. Install it (pip install triton, on Linux), or compile with "
            "backend='torch' to accept this.",
            stacklevel=2,
        )
