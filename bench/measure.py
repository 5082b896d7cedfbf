"""What benchmarks share: runs in turn, summaries, checked results, and where they were made."""

from __future__ import annotations

import contextlib
import datetime
import gc
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton

import graphnn as gn

RESULTS = pathlib.Path(__file__).parent / "results"
Run = Callable[[], Any]
Timer = Callable[[Run], float]


def clocked(run: Run) -> float:
    """Seconds of a run by the clock: for the CPU."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Events:
    """Seconds of a run on the current GPU, between events; before each its L2 cache is overwritten.

    While the GPU overwrites it, some 100 us, the run is being launched: of Python's own time only
    what goes beyond that is counted. Not run on a GPU yet.
    """

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self.bytes = max(256 << 20, 2 * size)
        self.flushed = torch.empty(self.bytes, dtype=torch.uint8, device="cuda")

    def __call__(self, run: Run) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flushed.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3


def rounds(
    runs: dict[str, Run], count: int, timer: Timer = clocked, warm: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run, in turn, `count` times after `warm` rounds of warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    with _without_collector():
        for number in range(count + warm):
            for name, run in runs.items():
                found = timer(run)
                if number >= warm:
                    seconds[name].append(found)
    return seconds


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Garbage is collected before and after: else whoever comes next pays for another's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and quartiles in milliseconds."""
    low, mid, high = statistics.quantiles(seconds, n=4)
    return {"low": low * 1e3, "median": mid * 1e3, "high": high * 1e3}


def without_gradients(run: Run) -> None:
    """Run as in inference."""
    with torch.no_grad():
        run()


def results(run: Run, weight: torch.Tensor, wanted: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What a run computes: its result, and the gradients of `wanted` for the gradient `weight`."""
    y = run()
    return [y.detach(), *torch.autograd.grad(y, list(wanted), weight)]


def error(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """The largest |found - wanted| / |wanted| of any of the results, in Euclidean norm."""
    parts = []
    for a, b in zip(found, wanted, strict=True):
        a, b = a.double(), b.double()
        parts.append(((a - b).norm() / b.norm().clamp(min=1e-30)).item())
    return max(parts) if all(p == p for p in parts) else float("nan")


def environment(device: str = "cpu", dtype: str = "float32") -> dict[str, Any]:
    """What a figure is worth nothing without."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    on_cpu = f"CPU, {torch.get_num_threads()} threads, {processor()}"
    found = {
        "device": torch.cuda.get_device_name() if device == "cuda" else on_cpu,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "graphnn": gn.__version__,
        "commit": commit.strip(),
        "date": datetime.date.today().isoformat(),
        "dtype": dtype,
    }
    if device == "cuda":
        found["cuda"], found["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return found


def processor() -> str:
    """The processor's name."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor()
