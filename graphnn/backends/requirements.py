"""What a backend needs besides PyTorch."""

from __future__ import annotations

import importlib.util

from graphnn.errors import BackendError


def need_triton(backend: str) -> None:
    """Raise BackendError where kernels are asked for and there is no Triton to write them with."""
    if importlib.util.find_spec("triton") is None:
        raise BackendError(
            f"backend '{backend}' runs Triton kernels, and Triton is not installed",
            got="no module named 'triton'",
            wanted="triton 3.6 or newer, which is there for Linux",
            fix="pip install triton, or compile with backend='torch'",
        )
