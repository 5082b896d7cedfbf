"""The GPU that kernels are planned for, if the device of a call does not say."""

from __future__ import annotations

import torch

from graphnn.kernels.feasibility.targets import device_limits

# without a GPU, plans are made for this one and run by the interpreter
DEFAULT = "sm_90"


def current() -> str:
    """The target of the current GPU."""
    if not torch.cuda.is_available():
        return DEFAULT
    return device_limits().target
