"""The GPU that kernels are planned for, if the device of a call does not say."""

from __future__ import annotations

import torch

from graphnn.kernels.feasibility.targets import device_limits, refusal

# without a GPU, plans are made for this one and run by the interpreter
DEFAULT = "sm_90"


def current() -> str:
    """The target of the current GPU, or the default if there is none that runs kernels."""
    found = device_limits().target if torch.cuda.is_available() else DEFAULT
    return DEFAULT if refusal(found) else found
