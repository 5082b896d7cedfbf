"""Times runs in turns after warming up, by the clock or by a GPU's events; and summaries."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from graphnn.kernels.select.pace import all_at_once

Run = Callable[[], Any]
Timer = Callable[[Run], float]
# least bytes overwritten before a run on a GPU: more than the L2 cache of any GPU
FLUSH = 256 << 20


def clocked(run: Run) -> float:
    """Seconds of a run by the clock, for a CPU."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


class Events:
    """Seconds of a run on the current GPU, between two events. Overwrites the L2 cache before it.

    The GPU needs about 100 µs to overwrite the cache, and Python launches the run meanwhile: only
    the launch time beyond that is counted. This has not been run on a GPU yet.
    """

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties().L2_cache_size
        self.flushed = torch.empty(max(FLUSH, 2 * size), dtype=torch.uint8, device="cuda")

    def __call__(self, run: Run) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self.flushed.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3


class Seconds(float):
    """Seconds of a run, and whether the system interrupted the process meanwhile."""

    interrupted: bool

    def __new__(cls, value: float, interrupted: bool) -> Seconds:
        """A float with that attribute."""
        made = super().__new__(cls, value)
        made.interrupted = interrupted
        return made


def interruptions() -> int:
    """How often the system has interrupted this process; zero if it does not count that."""
    try:
        import resource
    except ImportError:  # on Windows
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


def timer_for(device: str) -> Timer:
    """The clock of a kind of device: "cpu" or "cuda"."""
    return Events() if device == "cuda" else clocked


def rounds(
    runs: Mapping[str, Run], count: int, timer: Timer = clocked, warm: int = 2
) -> dict[str, list[float]]:
    """Seconds of each run. Runs take turns (A B A B) for `count` rounds, after `warm` rounds.

    Kernels are tuned in the rounds for warming up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(count + warm):
        for name, run in runs.items():
            before = interruptions()
            with all_at_once() if number < warm else contextlib.nullcontext():
                found = timer(run)
            if number >= warm:
                seconds[name].append(Seconds(found, interruptions() > before))
    return seconds


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Collect garbage before the block and none inside it.

    Otherwise one run pays for the garbage of another. A collection takes 0.1 s, so it is done once
    for many rounds.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """The best, median and quartiles in milliseconds. For a single time, all are that time."""
    one = [seconds[0]] * 3 if len(seconds) == 1 else None
    low, mid, high = one or statistics.quantiles(seconds, n=4, method="inclusive")
    found = {"best": min(seconds), "low": low, "median": mid, "high": high}
    return {name: value * 1e3 for name, value in found.items()}


def peak(run: Run) -> float:
    """The peak of the bytes that a run allocates on a GPU, without those allocated before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def without_gradients(run: Run) -> None:
    """Run without recording gradients, as in inference."""
    with torch.no_grad():
        run()
