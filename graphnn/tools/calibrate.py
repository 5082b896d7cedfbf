"""`graphnn calibrate`: measure the device at hand and keep its constants for the cost model."""

from __future__ import annotations

import pathlib

import torch

from graphnn.kernels import cache
from graphnn.planner.core import device as kept
from graphnn.planner.core.cost import Device
from graphnn.timing.clock import Timer
from graphnn.tools import device_limits

DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}


def calibrate(
    kind: str | None = None, keep: bool = True, timer: Timer | None = None
) -> tuple[Device, pathlib.Path | None]:
    """Measure "cpu" or "cuda" (default: the GPU where there is one); the constants, and the folder
    of the cache that they were written to. They hold for this device, number of threads and torch.
    """
    kind = kind or ("cuda" if torch.cuda.is_available() else "cpu")
    found = device_limits.measure(kind, DTYPES[kind], timer)
    if not keep:
        return found, None
    kept.keep(kind, found)
    return found, cache.folder()
