"""The timer of a GPU, on a fake one whose queue has a clock of its own."""

from __future__ import annotations

import pytest
import torch

from graphnn.kernels.select import gpu_timer
from graphnn.kernels.select.gpu_timer import CYCLES, TIMED_RUNS, time_on_gpu


class Clocks:
    """The clocks of a CPU and of a GPU that does one thing after another, in seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.host = self.gpu = 0.0
        self.runs = 0
        clocks = self

        class Event:
            def __init__(self, enable_timing: bool):
                self.at = 0.0

            def record(self) -> None:
                self.at = clocks.enqueue(0.0)

            def synchronize(self) -> None:
                clocks.host = max(clocks.host, self.at)

            def elapsed_time(self, end: Event) -> float:
                return 1e3 * (end.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.enqueue(cycles / 2e9))
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)
        monkeypatch.setattr(torch, "empty", lambda *a, **k: self)
        monkeypatch.setattr(gpu_timer.time, "perf_counter", lambda: self.host)

    def zero_(self) -> None:
        """Clear the cache of the GPU."""
        self.enqueue(80e-6)

    def synchronize(self) -> None:
        self.host = max(self.host, self.gpu)

    def enqueue(self, seconds: float) -> float:
        """Give the GPU work to do; returns when it is done."""
        self.gpu = max(self.gpu, self.host) + seconds
        return self.gpu

    def run(self, host: float, gpu: float, launches: int = 10) -> None:
        """Launch work bit by bit."""
        self.runs += 1
        for _ in range(launches):
            self.host += host / launches
            self.enqueue(gpu / launches)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize("host, gpu", [(1e-3, 50e-6), (50e-6, 1e-3), (5e-3, 5e-3)])
def test_the_time_of_the_gpu_does_not_include_that_of_the_cpu(
    clocks: Clocks, host: float, gpu: float
) -> None:
    found = time_on_gpu(lambda: clocks.run(host, gpu))
    assert found.gpu == pytest.approx(1e3 * gpu) and found.host == pytest.approx(1e3 * host)


def test_a_launch_that_takes_seconds_is_not_covered(clocks: Clocks) -> None:
    found = time_on_gpu(lambda: clocks.run(1.0, 1e-3))
    assert found.gpu > 900
    assert CYCLES * gpu_timer.MOST_COVER == 6e7  # 40 ms at 1.5 GHz


def test_a_run_above_the_limit_is_timed_once(clocks: Clocks) -> None:
    time_on_gpu(lambda: clocks.run(1e-4, 1e-3), limit=0.9)
    assert clocks.runs == 2 + 1
    clocks.runs = 0
    time_on_gpu(lambda: clocks.run(1e-4, 1e-3), limit=1.1)
    assert clocks.runs == 2 + TIMED_RUNS
