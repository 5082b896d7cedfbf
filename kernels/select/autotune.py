"""Which launch of a kernel is the fastest on the GPU at hand: timed once, then remembered.

The candidates are timed on the first call with about as many rows; later processes recall the
winner. What a kernel stores does not depend on what lay there before, so that running it many
times is harmless. With GRAPHNN_TUNE=0 or torch.use_deterministic_algorithms(True) the first
candidate is taken, and bits are the same everywhere.

Its logic is tested with a made-up timer; `timed` has not run on a GPU yet.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import statistics
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import triton
from triton.errors import TritonError

from .. import cache
from ..codegen.persistent import LoopSource
from ..feasibility.fit import Launch, candidates
from ..feasibility.limits import nearest

_LOG = logging.getLogger(__name__)
# a choice serves all calls with as many rows or fewer; beyond the last it serves the rest
BUCKETS = (16, 64, 256)
# another candidate is taken only if it saves this share of the first one's time
MARGIN = 0.03
WARM, RUNS = 2, 7
# bytes written before each timed run, about 80 us: the GPU has not finished them when the run has
# been launched, so that its time does not include the launch, and nothing is left in the L2 cache
FLUSH = 256 << 20

Run = Callable[[], None]
Timer = Callable[[Run], float]


def bucket(rows: int) -> int:
    """The rows for which a choice is made: the least bucket's that holds them, else the next."""
    return next((b for b in BUCKETS if rows <= b), 2 * BUCKETS[-1])


def wanted() -> bool:
    """Whether launches are to be timed at all."""
    off = torch.are_deterministic_algorithms_enabled() or os.environ.get("GRAPHNN_TUNE") == "0"
    return not off


def capturing() -> bool:
    """Whether launches on the current stream are recorded, not run."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def timed(run: Run) -> float:
    """Milliseconds of a run on the current CUDA device: the median of a few, after warming up."""
    for _ in range(WARM):
        run()
    flushed = torch.empty(FLUSH, dtype=torch.uint8, device="cuda")
    found = []
    for _ in range(RUNS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flushed.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end))
    return statistics.median(found)


class Tuner:
    """The choices of one kernel. `timer` times a run: it is another one in tests. One that is not
    `on` times nothing."""

    def __init__(self, source: LoopSource, timer: Timer = timed):
        self.source, self.timer = source, timer
        self.on = True
        self.chosen: dict[Any, Launch] = {}

    def choose(
        self, judged: Launch, rows: int, device: int, run: Callable[[Launch], None]
    ) -> Launch:
        """The launch for `rows` rows on a GPU; `run` does one. `judged` is known to fit."""
        key = judged, bucket(rows), device, self._wanted()
        if key not in self.chosen:
            self.chosen[key] = self._choose(judged, rows, device, run)
        return self.chosen[key]

    def _wanted(self) -> bool:
        return self.on and wanted()

    def able(self, judged: Launch, target: str, rows: int) -> list[Launch]:
        """The launches to choose among, the safest first."""
        return candidates(self.source, judged, target, rows)

    def _choose(
        self, judged: Launch, rows: int, device: int, run: Callable[[Launch], None]
    ) -> Launch:
        name, target = gpu(device)
        able = self.able(judged, target, bucket(rows))
        if len(able) == 1 or not self._wanted():
            return able[0]
        key = self._key(judged, name, bucket(rows))
        known = cache.recall(key)
        for launch in able:
            if known == asdict(launch):
                return launch
        if capturing():  # nothing can be timed now
            return able[0]
        best = self._fastest(able, run)
        cache.remember(key, asdict(best))
        return best

    def _key(self, judged: Launch, device: str, bucket: int) -> dict[str, Any]:
        """All that a choice hangs on."""
        return {
            "what": "launch",
            "kernel": hashlib.sha256(self.source.text.encode()).hexdigest(),
            "judged": asdict(judged),
            "device": device,
            "rows": bucket,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def _fastest(self, able: list[Launch], run: Callable[[Launch], None]) -> Launch:
        """The first, unless another is faster by the margin; one that fails is passed over."""
        times: dict[Launch, float] = {}
        for launch in able:
            try:
                times[launch] = self.timer(functools.partial(run, launch))
            except (TritonError, RuntimeError) as error:
                _LOG.info("%s does not run with %s: %s", self.source.name, launch, error)
        if not times:
            return able[0]  # its error is raised where it is launched
        best = min(times, key=lambda x: times[x])
        first = times.get(able[0])
        return able[0] if first and times[best] > (1 - MARGIN) * first else best


@functools.cache
def gpu(device: int) -> tuple[str, str]:
    """A GPU's name, and the target that kernels must fit."""
    target = nearest(*torch.cuda.get_device_capability(device))
    return torch.cuda.get_device_name(device), target
