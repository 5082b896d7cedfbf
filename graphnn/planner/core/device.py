"""The constants of the current device: measured earlier on it, or else those of its data sheet."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.errors import DeviceError
from graphnn.kernels import cache
from graphnn.kernels.feasibility.targets import device_limits
from graphnn.planner.core.cost import Device
from graphnn.planner.core.device_constants import default


def key(kind: str, name: str) -> dict[str, Any]:
    """What the constants of a device depend on: the device, the threads, and torch's version."""
    threads = torch.get_num_threads() if kind == "cpu" else 0
    return {"what": "device", "name": name, "threads": threads, "torch": torch.__version__}


def here(kind: str = "cpu", name: str = "") -> Device:
    """The constants of this machine's CPU or GPU ("cuda"); `source` says where they come from.

    `name` is the name that `graphnn calibrate` gave the device; on CUDA it is torch's.
    """
    target = "sm_90"
    if kind == "cuda" and torch.cuda.is_available():
        device = device_limits()
        name, target = device.name, device.target
    known = cache.recall(key(kind, name))
    if known is not None:
        try:
            return Device.of(known)
        except DeviceError:  # written by another version: ignored
            pass
    return default(kind, name, target)


def keep(kind: str, device: Device, name: str = "") -> None:
    """Remember constants that were measured on this machine."""
    cache.remember(key(kind, name or (device.name if kind == "cuda" else "")), device.record())
