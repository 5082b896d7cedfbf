"""A GPU that does not exist, for tests: launches are given to the function, on CPU tensors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from graphnn.kernels.executors.executor import GpuInfo, KernelLaunch
from graphnn.kernels.executors.gpu import Gpu


class MadeUpGpu(Gpu):
    """Runs `function[grid](*args, ...)` as on a GPU that `info` describes."""

    def __init__(
        self, name: str = "a made-up GPU", target: str = "sm_90", processors: int = 132
    ) -> None:
        self.info = GpuInfo(name, target, processors)
        self.prepared: list[list[KernelLaunch]] = []

    def gpu(self, index: int) -> GpuInfo:
        """Return the GPU that was made up."""
        return self.info

    def prepare(self, launches: Sequence[KernelLaunch]) -> None:
        """Note the launches that a GPU would compile now."""
        self.prepared.append(list(launches))

    def device_of(self, tensor: torch.Tensor) -> AbstractContextManager[Any]:
        """Return a context that changes nothing."""
        return nullcontext()
