"""What is run: a table of jobs, each a function in a process of its own.

A job belongs to an item; `TITLES` names the items. If `gpu`, nothing of it can be run without a
GPU. Jobs that are `timed` run alone, others side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from graphnn.bench.contact.networks import NETWORKS, STRATEGIES

TITLES = (
    "the machine",
    "barriers between blocks",
    "scans, random numbers, top-k, products",
    "results and gradients of networks",
    "what Triton is known to miscompile",
    "CUDA graphs and torch.compile",
    "settings, devices, unaligned and empty tensors, out of memory",
    "times",
    "tuning and memory",
)


@dataclass(frozen=True)
class Job:
    """A function of `graphnn.bench.contact`, its arguments, and the seconds that it may take."""

    item: int
    name: str
    function: str
    arguments: dict[str, Any] = field(default_factory=dict)
    limit: float = 60.0
    gpu: bool = False
    timed: bool = False
    # variables of the environment of its process
    environment: dict[str, str] = field(default_factory=dict)


def jobs() -> list[Job]:
    """Return all jobs in the order of the items."""
    return [
        Job(0, "versions, device, environment", "machine.examine", limit=30),
        Job(1, "blocks count together", "barriers.count_together"),
        Job(1, "two streams of 80 blocks", "barriers.two_streams", gpu=True),
        Job(1, "100 replays of a CUDA graph", "barriers.replayed", gpu=True),
        Job(1, "latency of a barrier", "barriers.latency", gpu=True, timed=True),
        Job(2, "scans", "laws.scans"),
        Job(2, "random numbers", "laws.random_numbers"),
        *(Job(2, name, "laws.network", {"name": name}, 120) for name in LAWS),
        *_networks(),
        *(Job(3, f"{t}, {n}", "sanitizer.run", a, 90, gpu=True) for t, n, a in SANITIZED),
        Job(4, "64 × 64 tiles of attention, 1000 runs", "suspects.attention", gpu=True),
        *(Job(4, name, "suspects.network", {"name": name}, 120) for name in SUSPECTS),
        *(Job(5, name, f"capture.{f}", limit=90, gpu=True) for name, f in CAPTURED.items()),
        *(Job(6, name, f"settings.{f}") for name, f in SETTINGS.items()),
        *(Job(6, name, f"settings.{f}", gpu=True) for name, f in ON_GPU.items()),
        Job(7, "first and second call", "times.calls", limit=120, timed=True),
        *(Job(7, f"steps of {n}", "times.steps", {"name": n}, 90, True, True) for n in TIMED),
        *_tuned(),
        Job(8, "memory of CUDA graphs, and after a model", "tuning.memory", gpu=True),
    ]


LAWS = ("best of slots", "rolled slots", "ieee", "tf32x3", "tf32")
SUSPECTS = ("additive score, 64 wide", "additive score, 192 wide")
TIMED = ("LSTM 64", "LSTM 256", "LSTM 512", "LSTM 1024")
CAPTURED = {
    "torch.cuda.graph of a cooperative loop": "graphed",
    "torch.compile, reduce-overhead": "reduced_overhead",
}
SETTINGS = {
    "fp32_precision is tf32": "tf32_setting",
    "an unaligned slice": "unaligned",
    "an empty batch": "empty_batch",
}
ON_GPU = {
    "a model on the second device": "second_device",
    "95% of the memory is full": "out_of_memory",
}
SANITIZED = [
    ("memcheck", "LSTM 128", {"tool": "memcheck", "name": "LSTM 128"}),
    ("racecheck", "LSTM 64", {"tool": "racecheck", "name": "LSTM 64"}),
]


def _networks() -> Iterator[Job]:
    """Yield the networks: with small tiles first, then with tiles of 64 rows."""
    for large in (False, True):
        for name, network in NETWORKS.items():
            for dtype in ("bf16", "fp32"):
                for strategy in STRATEGIES if network.loops else ("persistent",):
                    if large and strategy != "persistent":
                        continue
                    given = {"name": name, "dtype": dtype, "strategy": strategy, "large": large}
                    rows = ", tiles of 64 rows" if large else ""
                    title = f"{name}, {dtype}, {strategy}{rows}"
                    # what was verified is remembered in the cache: others must not see it
                    own = {"XDG_CACHE_HOME": "large"} if large else {}
                    yield Job(3, title, "correctness.check", given, 120, large, environment=own)


def _tuned() -> Iterator[Job]:
    """Yield the same tuning with three caches that are empty."""
    for k in range(1, 4):
        own = {"XDG_CACHE_HOME": f"tuned {k}"}
        yield Job(8, f"choices, {k}", "tuning.choices", {}, 90, True, True, own)
