"""The limits of this device, measured with a compiled model for the overhead of a call."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from graphnn.frontend.graph import Graph
from graphnn.planner.core.cost import Device
from graphnn.runtime.model import compile
from graphnn.timing import device_limits
from graphnn.timing.clock import Run, Timer


def measure(
    device: str = "cpu",
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    timer: Timer | None = None,
    count: int = 15,
) -> Device:
    """The constants of this device, measured in about a second on a CPU.

    `device` is "cpu" or "cuda", `count` the rounds. `timer` replaces the device's clock in tests.
    """
    return device_limits.measure(device, dtypes, _model_call(device), timer, count)


@functools.cache
def measured(device: str, dtype: torch.dtype) -> Device:
    """The constants of this device, measured once per process."""
    return measure(device, (dtype,))


def _model_call(device: str) -> Run:
    """A call of a model whose one loop does next to nothing: the rest is overhead in Python."""
    g = Graph("nothing")
    z = g.state("z", (1,))
    z.next = z * 0.5 + torch.tanh(z) * g.input("x", (1,), over="time")
    g.output("y", z.next)
    model, x = compile(g, "torch"), torch.zeros(1, 1, 1, device=device)

    def run() -> None:
        with torch.no_grad():
            model(x=x)

    return run
