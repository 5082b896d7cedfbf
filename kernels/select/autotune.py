"""Autotuning of launches: the fastest one on the GPU at hand is found once, then remembered.

The candidates of a kernel race on calls with a similar number of rows: see `race`. Later processes
recall the times. Running a kernel many times is harmless: its results do not depend on earlier
contents. With GRAPHNN_TUNE=0 or torch.use_deterministic_algorithms(True) the first candidate is
taken, and results are bitwise equal everywhere.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from ..codegen.digest import digest
from ..codegen.persistent import LoopSource
from ..executors.executor import Executor
from ..feasibility.fit import Launch, launch_candidates
from ..trust.compare import candidates_differ
from ..trust.failures import KernelWarning
from ..trust.rehearsal import trying
from ..trust.switches import most_tile_rows
from .gpu_timer import time_on_gpu
from .race import Race, RaceTimer, versions

# A choice applies to all calls with up to this many rows; one more choice to all larger calls.
BUCKETS = (16, 64, 256)
# the most candidates of one kernel: each is compiled, in 1 to 8 s
MOST_CANDIDATES = 3

Run = Callable[[Launch], None]
Prepare = Callable[[Sequence[Launch]], None]
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


class Autotuner:
    """Chooses launches of one kernel. `timer` times a run, and is replaced in tests.

    Nothing is timed unless `enabled`, and the executor can be timed.
    """

    def __init__(self, source: LoopSource, executor: Executor, timer: RaceTimer = time_on_gpu):
        self.source, self.executor, self.timer = source, executor, timer
        self.enabled = True
        self.most_rows = most_tile_rows()
        self.races: dict[Any, Race] = {}
        # choices that no later call changes
        self.choices: dict[Any, Launch] = {}

    def known(self, judged: Launch, rows: int, device: int) -> Launch | None:
        """Return the launch for `rows` rows if no later call can change it."""
        return self.choices.get(self._signature(judged, rows, device))

    def _signature(self, judged: Launch, rows: int, device: int) -> Any:
        return judged, bucket(rows), device, self._may_time(), len(_EVERY)

    def choose(
        self,
        judged: Launch,
        rows: int,
        device: int,
        run: Run,
        outs: Sequence[torch.Tensor] = (),
        prepare: Prepare | None = None,
    ) -> Launch:
        """Return the launch for `rows` rows on a GPU. `judged` is known to fit, `run` runs one.

        `outs` are the tensors that a run stores: candidates that store something else than the
        first are dropped. `prepare` compiles several launches before they run.
        """
        key = self._signature(judged, rows, device)
        if key in self.choices:
            return self.choices[key]
        candidates = self._considered(judged, rows, device)
        if _EVERY:
            for launch in candidates:
                run(launch)
        elif is_capturing():  # nothing can be timed now
            return candidates[0]
        elif len(candidates) > 1 and self._may_time():
            race = self._race(key, judged, rows, device, candidates)
            chosen = self._raced(race, candidates, run, outs, prepare)
            if race.left:
                return chosen
            candidates = [chosen]
        self.choices[key] = candidates[0]
        return candidates[0]

    def _race(
        self, key: Any, judged: Launch, rows: int, device: int, candidates: Sequence[Launch]
    ) -> Race:
        """Return the race between the candidates of a choice."""
        if key not in self.races:
            gpu = self.executor.gpu(device).name
            names = [_name(x) for x in candidates]
            self.races[key] = Race(self._key(judged, gpu, bucket(rows)), names)
        return self.races[key]

    def _raced(
        self,
        race: Race,
        candidates: Sequence[Launch],
        run: Run,
        outs: Sequence[torch.Tensor],
        prepare: Prepare | None,
    ) -> Launch:
        """Let a race go on, and return the launch to be used."""
        by_name = {_name(x): x for x in candidates}

        def run_one(name: str) -> None:
            with trying():
                run(by_name[name])

        def agrees(name: str) -> bool:
            if by_name[name] == candidates[0]:
                return True
            run_one(race.names[0])
            wanted = [t.clone() for t in outs]
            run_one(name)
            return self._agrees(by_name[name], outs, wanted)

        if prepare is not None and race.starts:
            prepare([by_name[name] for name in race.left])
        return by_name[race.go_on(run_one, self.timer, agrees=agrees)]

    def _agrees(
        self, launch: Launch, outs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> bool:
        """Return whether a launch stored what the first one did; warns if it did not."""
        differs = candidates_differ(outs, wanted)
        if differs:
            warnings.warn(
                f"the kernel {self.source.name} is not run with {launch}: its results are not "
                f"those of the launch that is tried first ({differs})",
                KernelWarning,
                stacklevel=2,
            )
        return not differs

    def _considered(self, judged: Launch, rows: int, device: int) -> list[Launch]:
        """Return the launches to choose from: the safest, then those least like it."""
        target = self.executor.gpu(device).target
        able = self.candidates(judged, target, bucket(rows))
        able = [x for x in able if x.rows <= self.most_rows] or able[:1]
        if len(able) <= MOST_CANDIDATES or _EVERY:
            return able
        others = [x for x in able if x != able[0]]
        most = max(others, key=lambda x: x.rows)
        return list(dict.fromkeys([able[0], others[0], most, *others]))[:MOST_CANDIDATES]

    def _may_time(self) -> bool:
        return self.enabled and self.executor.timed and timing_enabled()

    def candidates(self, judged: Launch, target: str, rows: int) -> list[Launch]:
        """Return the launches that fit, the safest first."""
        return launch_candidates(self.source, judged, target, rows)

    def _key(self, judged: Launch, device: str, bucket: int) -> dict[str, Any]:
        """Return everything that a choice depends on."""
        return {
            "what": "launches",
            "kernel": digest(self.source),
            "judged": asdict(judged),
            "device": device,
            "rows": bucket,
            **versions(),
        }


def _name(launch: Launch) -> str:
    """Return the name of a candidate in its race and in the cache."""
    return json.dumps(asdict(launch))
