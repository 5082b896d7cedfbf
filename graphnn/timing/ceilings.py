"""The limits of the device at hand, measured: copies, products, pointwise work, launch, barrier."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence

import torch

from graphnn.graph import Graph
from graphnn.model import compile
from graphnn.planner.cost import Device
from graphnn.timing.about import processor
from graphnn.timing.clock import Run, Timer, rounds, timer_for

# (rows, inner, columns) of products: those of a step, of a few steps, and large ones
PRODUCTS = {
    "cpu": ((16, 64, 256), (32, 128, 512), (256, 256, 1024), (1024, 1024, 1024)),
    "cuda": ((256, 512, 2048), (2048, 2048, 2048), (8192, 8192, 8192)),
}
# bytes of a copy through memory, and of one that stays in the cache
COPY = {"cpu": 64 << 20, "cuda": 1 << 30}
CACHED = {"cpu": 256 << 10, "cuda": 4 << 20}
NUMBERS = {"cpu": 1 << 14, "cuda": 1 << 26}
TANH = 10  # operations of one tanh, as the table of operations counts
CALLS = 50


def measure(
    device: str = "cpu",
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    timer: Timer | None = None,
    count: int = 15,
) -> Device:
    """The constants of this device, measured in about a second on a CPU.

    `device` is "cpu" or "cuda"; `timer` takes the place of its clock in tests.
    """
    clock = timer or timer_for(device)

    def best(run: Run, calls: int = 1) -> float:
        def several() -> None:
            for _ in range(calls):
                run()

        # a limit is what was reached once: whatever else the machine does only adds to it
        return min(rounds({"": several}, count, clock)[""]) / calls

    launch = best(_addition(device), CALLS)
    products = {
        str(d).removeprefix("torch."): tuple(
            _rate(size, best(_product(device, d, *size), _calls(math.prod(size))))
            for size in PRODUCTS[device]
        )
        for d in dtypes
    }
    tanh = best(_tanh(device), CALLS) - launch
    return Device(
        name=name(device),
        source=f"measured on {datetime.date.today().isoformat()}, torch {torch.__version__}",
        bandwidth=2 * COPY[device] / best(_copy(device, COPY[device])),
        products=products,
        pointwise=TANH * NUMBERS[device] / max(tanh, 1e-9),
        launch=launch,
        barrier=_barrier(device, clock, count),
        call=best(_call(device)),
        units=_units(device),
        cache=_cache(device),
        cached=2 * CACHED[device] / max(best(_copy(device, CACHED[device]), CALLS) - launch, 1e-9),
    )


def _rate(size: tuple[int, int, int], seconds: float) -> tuple[float, float]:
    """Operations of a product, and how many are done a second."""
    flops = 2.0 * math.prod(size)
    return flops, flops / max(seconds, 1e-12)


def _calls(products: int) -> int:
    """Calls in a row of something: many of the small, one of the large."""
    return max(1, min(CALLS, (1 << 24) // products))


def name(device: str) -> str:
    """What a device is called in results and in the cache."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {processor()}"


def _addition(device: str) -> Run:
    a = torch.zeros(8, device=device)
    return lambda: torch.add(a, a, out=a)


def _product(device: str, dtype: torch.dtype, m: int, k: int, n: int) -> Run:
    a = torch.randn(m, k, device=device).to(dtype)
    b = torch.randn(k, n, device=device).to(dtype)
    out = torch.empty(m, n, dtype=dtype, device=device)
    return lambda: torch.mm(a, b, out=out)


def _tanh(device: str) -> Run:
    x = torch.randn(NUMBERS[device], device=device)
    out = torch.empty_like(x)
    return lambda: torch.tanh(x, out=out)


def _copy(device: str, size: int) -> Run:
    a = torch.zeros(size, dtype=torch.uint8, device=device)
    out = torch.zeros_like(a)
    return lambda: out.copy_(a)


def _call(device: str) -> Run:
    """A model that does next to nothing: what is left is Python's work."""
    g = Graph("nothing")
    g.output("y", g.input("x", (1,)) * 2)
    model, x = compile(g), torch.zeros(1, 1, device=device)
    return lambda: model(x=x)


def _units(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.get_device_properties().multi_processor_count)
    return torch.get_num_threads()


def _cache(device: str) -> int:
    """Bytes of the cache that a step's values stay in: L2 of a GPU; of a CPU taken as 1 MB a
    thread."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties().L2_cache_size)
    return torch.get_num_threads() << 20


def _barrier(device: str, clock: Timer, count: int) -> float:
    """Seconds of a grid barrier; a CPU has none."""
    if device != "cuda":
        return 0.0
    from graphnn.timing.barrier import latency

    return latency(clock, count)
