"""Autotuning of launches: the fastest one on the GPU at hand is timed once, then remembered.

The candidates are timed on the first call with a similar number of rows; later processes recall the
winner. Running a kernel many times is harmless: its results do not depend on earlier
contents. With GRAPHNN_TUNE=0 or torch.use_deterministic_algorithms(True) the first candidate is
taken, and results are bitwise equal everywhere.

The logic is tested with a fake timer; `time_on_gpu` has not run on a GPU yet.
"""

from __future__ import annotations

import functools
import logging
import os
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
import triton
from triton.errors import TritonError

from .. import cache
from ..codegen.digest import digest
from ..codegen.persistent import LoopSource
from ..executors.executor import Executor
from ..feasibility.fit import Launch, launch_candidates
from ..trust.compare import candidates_differ
from ..trust.failures import KernelWarning
from ..trust.rehearsal import trying
from ..trust.switches import most_tile_rows

_LOG = logging.getLogger(__name__)
# A choice applies to all calls with up to this many rows; one more choice to all larger calls.
BUCKETS = (16, 64, 256)
# another candidate replaces the first only if it saves this share of the time
MARGIN = 0.03
WARMUP_RUNS, TIMED_RUNS = 2, 7
# Bytes written before each timed run, about 80 µs. The GPU has not finished writing when the run is
# launched, so the measured time does not include the launch. The writes also clear the L2 cache.
FLUSH_BYTES = 256 << 20

TimedRun = Callable[[], None]
RunTimer = Callable[[TimedRun], float]
# not empty within `every_candidate_run`
_EVERY: list[bool] = []


def bucket(rows: int) -> int:
    """Return the number of rows for which a choice is made: the smallest bucket that fits."""
    return next((b for b in BUCKETS if rows <= b), 2 * BUCKETS[-1])


def timing_enabled() -> bool:
    """Return whether launches are timed at all."""
    off = torch.are_deterministic_algorithms_enabled() or os.environ.get("GRAPHNN_TUNE") == "0"
    return not off


@contextmanager
def every_candidate_run() -> Iterator[None]:
    """Run every candidate once, time none, and choose the first: a checker sees all of them."""
    _EVERY.append(True)
    try:
        yield
    finally:
        _EVERY.pop()


def is_capturing() -> bool:
    """Return whether launches on the current stream are captured in a CUDA graph, not run."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def time_on_gpu(run: TimedRun) -> float:
    """Return the milliseconds of a run on the current GPU: the median of a few, after warm-up."""
    for _ in range(WARMUP_RUNS):
        run()
    flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(TIMED_RUNS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flushed.zero_()
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


class Autotuner:
    """Chooses launches of one kernel. `timer` times a run, and is replaced in tests.

    Nothing is timed unless `enabled`, and the executor can be timed.
    """

    def __init__(self, source: LoopSource, executor: Executor, timer: RunTimer = time_on_gpu):
        self.source, self.executor, self.timer = source, executor, timer
        self.enabled = True
        self.most_rows = most_tile_rows()
        self.choices: dict[Any, Launch] = {}

    def choose(
        self,
        judged: Launch,
        rows: int,
        device: int,
        run: Callable[[Launch], None],
        outs: Sequence[torch.Tensor] = (),
    ) -> Launch:
        """Return the launch for `rows` rows on a GPU. `judged` is known to fit, `run` runs one.

        `outs` are the tensors that a run stores: candidates that store something else than the
        first are dropped.
        """
        key = judged, bucket(rows), device, self._may_time(), len(_EVERY)
        if key not in self.choices:
            self.choices[key] = self._choose(judged, rows, device, run, outs)
        return self.choices[key]

    def _may_time(self) -> bool:
        return self.enabled and self.executor.timed and timing_enabled()

    def candidates(self, judged: Launch, target: str, rows: int) -> list[Launch]:
        """Return the launches to choose from, the safest first."""
        return launch_candidates(self.source, judged, target, rows)

    def _choose(
        self,
        judged: Launch,
        rows: int,
        device: int,
        run: Callable[[Launch], None],
        outs: Sequence[torch.Tensor],
    ) -> Launch:
        name, target, _ = self.executor.gpu(device)
        candidates = self.candidates(judged, target, bucket(rows))
        candidates = [c for c in candidates if c.rows <= self.most_rows] or candidates[:1]
        if _EVERY:
            for launch in candidates:
                run(launch)
            return candidates[0]
        if len(candidates) == 1 or not self._may_time():
            return candidates[0]
        key = self._key(judged, name, bucket(rows))
        known = cache.recall(key)
        for launch in candidates:
            if known == asdict(launch):
                return launch
        if is_capturing():  # nothing can be timed now
            return candidates[0]
        best = self._fastest(candidates, run, outs)
        cache.remember(key, asdict(best))
        return best

    def _key(self, judged: Launch, device: str, bucket: int) -> dict[str, Any]:
        """Return everything that a choice depends on."""
        return {
            "what": "launch",
            "kernel": digest(self.source),
            "judged": asdict(judged),
            "device": device,
            "rows": bucket,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def _fastest(
        self,
        candidates: list[Launch],
        run: Callable[[Launch], None],
        outs: Sequence[torch.Tensor],
    ) -> Launch:
        """Return the first candidate unless another is faster by the margin.

        Candidates that fail to run are skipped, and those whose results are not the first one's.
        """
        times: dict[Launch, float] = {}
        wanted: list[torch.Tensor] = []
        for launch in candidates:
            try:
                with trying():
                    time = self.timer(functools.partial(run, launch))
            except (TritonError, RuntimeError) as error:
                _LOG.info("%s does not run with %s: %s", self.source.name, launch, error)
                continue
            if self._agrees(launch, outs, wanted):
                times[launch] = time
            wanted = wanted or [t.clone() for t in outs]
        if not times:
            return candidates[0]  # its error is raised when it is launched
        best = min(times, key=lambda x: times[x])
        first = times.get(candidates[0])
        return candidates[0] if first and times[best] > (1 - MARGIN) * first else best

    def _agrees(
        self, launch: Launch, outs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> bool:
        """Return whether a launch stored what the first one did; warns if it did not."""
        differs = candidates_differ(outs, wanted) if wanted else ""
        if differs:
            warnings.warn(
                f"the kernel {self.source.name} is not run with {launch}: its results are not "
                f"those of the launch that is tried first ({differs})",
                KernelWarning,
                stacklevel=2,
            )
        return not differs
