"""A GPU that does not exist and whose kernels have faults: they are interpreted, then they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from graphnn.kernels.executors import named
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.trust import guard
from tests.kernels.made_up_gpu import MadeUpGpu

# called with a launch that has run, and its outputs
Fault = Callable[[KernelLaunch, list[torch.Tensor]], None]


def no_fault(launch: KernelLaunch, outs: list[torch.Tensor]) -> None:
    """Leave the results as they are."""


class FaultyGpu(MadeUpGpu):
    """Interprets launches, and then lets `fault` do what it does to their outputs."""

    # another process interprets its kernels as well
    name = "interpret"
    timed = False

    def __init__(self, fault: Fault = no_fault) -> None:
        super().__init__()
        self.fault = fault
        self.ran: list[KernelLaunch] = []

    def run(self, launch: KernelLaunch) -> None:
        """Run a launch wrongly."""
        self.ran.append(launch)
        constants = dict(launch.constants)
        exact = any(isinstance(t, torch.Tensor) and t.dtype == torch.float64 for t in launch.args)
        if "UPCAST" in constants:  # the interpreter multiplies no bfloat16
            constants["UPCAST"] = not exact
        INTERPRETER.run(replace(launch, constants=constants))
        outs = [launch.args[k] for k in launch.outputs]
        self.fault(launch, [t for t in outs if isinstance(t, torch.Tensor)])


@contextmanager
def as_the_gpu(gpu: MadeUpGpu) -> Iterator[MadeUpGpu]:
    """Let a made-up GPU run the kernels of backend "interpret"; no process is started."""
    guard.forget_verdicts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(named, "INTERPRETER", gpu)
        patch.setitem(named._EXECUTORS, "interpret", gpu)
        patch.setattr(guard, "prove", lambda executor, launch: "")
        yield gpu
    guard.forget_verdicts()
