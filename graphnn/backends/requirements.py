"""The requirements of backends in addition to PyTorch."""

from __future__ import annotations

import importlib.util

from graphnn.errors import BackendError
from graphnn.kernels.feasibility.targets import refusal


def need_triton(backend: str) -> None:
    """Raise BackendError if Triton, which the kernels of a backend require, is not installed."""
    if importlib.util.find_spec("triton") is None:
        raise BackendError(
            f"backend '{backend}' runs Triton kernels, and Triton is not installed",
            got="no module named 'triton'",
            wanted="triton 3.6 or newer, which exists for Linux",
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
