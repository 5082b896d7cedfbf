"""Measures the limits of a device: copies, matmuls, pointwise work, launches, barriers."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Sequence

import torch

from graphnn.planner.core.cost import Device
from graphnn.timing.clock import Run, Timer, quiet, rounds, timer_for
from graphnn.timing.provenance import processor

# (rows, inner, columns) of matmuls: those of one step, of a few steps, and large ones
PRODUCTS = {
    "cpu": ((16, 64, 256), (32, 128, 512), (256, 256, 1024), (1024, 1024, 1024)),
    "cuda": ((256, 512, 2048), (2048, 2048, 2048), (8192, 8192, 8192)),
}
# bytes copied: within the nearest cache, within a farther one, through memory
COPIES = {"cpu": (128 << 10, 2 << 20, 64 << 20), "cuda": (4 << 20, 1 << 30)}
ELEMENTS = {"cpu": 1 << 14, "cuda": 1 << 26}
TANH = 10  # operations per tanh, as in the table of operations
CALLS = 50


def measure(
    device: str,
    dtypes: Sequence[torch.dtype],
    model_call: Run,
    timer: Timer | None = None,
    count: int = 15,
) -> Device:
    """The constants of this device, measured in about a second on a CPU.

    `device` is "cpu" or "cuda". `model_call` calls a compiled model with one loop that does next to
    nothing: half its time is the overhead of a call. `timer` replaces the device's clock in tests.
    """
    clock = timer or timer_for(device)
    with quiet():
        return _measured(device, dtypes, model_call, clock, count)


def _measured(
    device: str, dtypes: Sequence[torch.dtype], model_call: Run, clock: Timer, count: int
) -> Device:
    def several(run: Run, calls: int) -> list[float]:
        def all_calls() -> None:
            for _ in range(calls):
                run()

        return [t / calls for t in rounds({"": all_calls}, count, clock)[""]]

    def best(run: Run, calls: int = 1) -> float:
        # a limit is the best of all rounds: other work of the machine only adds time
        return max(min(several(run, calls)), 1e-12)

    # a latency is a typical time
    launch = statistics.median(several(_addition(device), CALLS))
    call = statistics.median(several(model_call, 1)) / 2
    products = {
        str(d).removeprefix("torch."): tuple(
            _rate(size, best(_matmul(device, d, *size), _calls(math.prod(size), 1 << 24)))
            for size in PRODUCTS[device]
        )
        for d in dtypes
    }
    copies = tuple(
        (2.0 * size, 2.0 * size / best(_copy(device, size), _calls(size, 1 << 24)))
        for size in COPIES[device]
    )
    return Device(
        name=name(device),
        source=f"measured on {datetime.date.today().isoformat()}, torch {torch.__version__}",
        copies=copies,
        products=products,
        pointwise=TANH * ELEMENTS[device] / best(_tanh(device), CALLS),
        launch=launch,
        barrier=_barrier(device, clock, count),
        call=call,
        units=_units(device),
    )


def _rate(size: tuple[int, int, int], seconds: float) -> tuple[float, float]:
    """Operations of a matmul, and their number per second."""
    flops = 2.0 * math.prod(size)
    return flops, flops / max(seconds, 1e-12)


def _calls(size: int, most: int) -> int:
    """The number of calls in a row: many if they are small, one if they are large."""
    return max(1, min(CALLS, most // size))


def name(device: str) -> str:
    """The name of a device in results and in the cache."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {processor()}"


def _addition(device: str) -> Run:
    a = torch.zeros(8, device=device)
    return lambda: torch.add(a, a, out=a)


def _matmul(device: str, dtype: torch.dtype, m: int, k: int, n: int) -> Run:
    a = torch.randn(m, k, device=device).to(dtype)
    b = torch.randn(k, n, device=device).to(dtype)
    out = torch.empty(m, n, dtype=dtype, device=device)
    return lambda: torch.mm(a, b, out=out)


def _tanh(device: str) -> Run:
    x = torch.randn(ELEMENTS[device], device=device)
    out = torch.empty_like(x)
    return lambda: torch.tanh(x, out=out)


def _copy(device: str, size: int) -> Run:
    a = torch.zeros(size, dtype=torch.uint8, device=device)
    out = torch.zeros_like(a)
    return lambda: out.copy_(a)


def _units(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties().multi_processor_count)
    return torch.get_num_threads()


def _barrier(device: str, clock: Timer, count: int) -> float:
    """Seconds per grid barrier; zero on a CPU, which has none."""
    if device != "cuda":
        return 0.0
    from graphnn.timing.barrier_cost import latency

    return latency(clock, count)
