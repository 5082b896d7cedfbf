"""Runs kernels by Triton's interpreter, on CPU tensors."""

from __future__ import annotations

from ..interpreter import interleaved, interpreter
from .executor import Executor, GpuInfo, KernelLaunch

# the GPU that kernels are planned for if there is none
PLANNED_FOR = GpuInfo("H200", "sm_90", 132)


class Interpreter(Executor):
    """Runs kernels by Triton's interpreter: slow, and exact in float64."""

    name = "interpret"
    device_type = "cpu"
    interprets = True

    def gpu(self, index: int) -> GpuInfo:
        """Return the GPU that kernels are planned for."""
        return PLANNED_FOR

    def run(self, launch: KernelLaunch) -> None:
        """Run all programs, interleaved if they wait for each other."""
        run = interleaved.launch if launch.together else interpreter.launch
        run(launch.function, launch.grid, *launch.args, **launch.constants)
