"""Runs kernels on an NVIDIA GPU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from ..feasibility.targets import device_limits
from .compiled import in_parallel, warmed
from .executor import Executor, GpuInfo, KernelLaunch


class Gpu(Executor):
    """Runs kernels on the GPU of their tensors."""

    name = "gpu"
    device_type = "cuda"
    timed = True
    checked = True

    def gpu(self, index: int) -> GpuInfo:
        """Return the GPU with this index."""
        return _info(index)

    def run(self, launch: KernelLaunch) -> None:
        """Launch the compiled kernel on the current device and stream."""
        launch.function[launch.grid](*launch.args, **launch.constants, **launch.options)

    def wait(self, tensor: torch.Tensor) -> None:
        """Wait for the tensor's GPU; raises RuntimeError if a kernel failed on it."""
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)

    def prepare(self, launches: Sequence[KernelLaunch]) -> None:
        """Compile launches side by side. Those that do not compile fail when they are run."""
        in_parallel(warmed, launches)

    def device_of(self, tensor: torch.Tensor) -> AbstractContextManager[Any]:
        """Return a context in which the device of a tensor is the current one."""
        return torch.cuda.device_of(tensor)


@functools.cache
def _info(index: int) -> GpuInfo:
    found = device_limits(index)
    return GpuInfo(found.name, found.target, found.processors)
