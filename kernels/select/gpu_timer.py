"""Times runs on a GPU: its own time decides; the CPU's time to launch a run is told beside it.

Launching a run takes the CPU 100 µs to 1 ms, often longer than the GPU needs. Before each timed run
the GPU is kept busy for longer than that, so that it finds all launches of the run waiting. The
logic is tested with a fake GPU; no GPU has timed anything yet.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

TimedRun = Callable[[], Any]
TIMED_RUNS = 7
# bytes written before each timed run: they clear the L2 cache
FLUSH_BYTES = 256 << 20
# Clock cycles per second of the fastest GPU, rounded up: slower ones are kept busy for longer.
CYCLES = 3e9
# The most seconds for which the GPU is kept busy. A run with more launches than the driver's queue
# holds (about 1,000) waits for the GPU anyway.
MOST_COVER = 0.02


class Timing(NamedTuple):
    """Milliseconds of a run: on the GPU, and on the CPU until all of it was launched."""

    gpu: float
    host: float = 0.0


def time_on_gpu(run: TimedRun, limit: float = math.inf) -> Timing:
    """Return the time of a run on the current GPU: the median of a few, after a warm-up.

    A run that takes more than `limit` milliseconds is not repeated.
    """
    run()
    host = _host_seconds(run)
    flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times: list[float] = []
    while len(times) < TIMED_RUNS and (not times or times[0] <= limit):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flushed.zero_()
        torch.cuda._sleep(int(CYCLES * min(host, MOST_COVER)))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return Timing(statistics.median(times), 1e3 * host)


def _host_seconds(run: TimedRun) -> float:
    """Return the seconds until the CPU has launched a run."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
