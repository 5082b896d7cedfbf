"""The GPU that kernels are planned for."""

from __future__ import annotations

import torch

from graphnn.kernels.feasibility.limits import nearest_target

# without a GPU, plans are made for this one and run by the interpreter
DEFAULT = "sm_90"


def current() -> str:
    """The nearest target, among those whose limits are known, to the GPU at hand."""
    if not torch.cuda.is_available():
        return DEFAULT
    return nearest_target(*torch.cuda.get_device_capability())
