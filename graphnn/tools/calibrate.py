"""`graphnn calibrate`: measures this device and caches its constants for the cost model."""

from __future__ import annotations

import pathlib

import torch

from graphnn.kernels import cache
from graphnn.planner.core import device as kept
from graphnn.planner.core.cost import Device
from graphnn.runtime import limits
from graphnn.timing.clock import Timer

DTYPES = {
    "cpu": (torch.float32, torch.float64),
    "cuda": (torch.float32, torch.float16, torch.bfloat16),
}


def calibrate(
    kind: str | None = None, keep: bool = True, timer: Timer | None = None
) -> tuple[Device, pathlib.Path | None]:
    """Measure "cpu" or "cuda" (default: the GPU if there is one).

    Returns the constants, and the cache folder they were written to, or None if `keep` is false.
    They are valid for this device, number of threads and version of torch.
    """
    kind = kind or ("cuda" if torch.cuda.is_available() else "cpu")
    found = limits.measure(kind, DTYPES[kind], timer)
    if not keep:
        return found, None
    kept.keep(kind, found)
    return found, cache.folder()
