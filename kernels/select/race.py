"""Races between candidates that compute the same: one is timed per call, the fastest wins.

The first call runs the first candidate and times nothing, so that its result comes as soon as one
kernel is compiled. Each later call with the same key times one more candidate, compiled just before
that. Until all are timed, the first is used. What was timed is kept in the cache, so that the next
process continues. Within `all_at_once`, or with GRAPHNN_TUNE=all, the first call times everything.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import triton
from triton.errors import TritonError

from .. import cache
from ..trust.rehearsal import rehearsing
from .gpu_timer import TimedRun, Timing
from .pace import PACE, paused, settled

_LOG = logging.getLogger(__name__)
# another candidate replaces the first only if it saves this share of the time
MARGIN = 0.03
# a candidate that is so many times slower than the fastest is run only once
HOPELESS = 3.0

RaceTimer = Callable[[TimedRun, float], Timing]


def _is_timing(found: Any) -> bool:
    """Whether a value of the cache is a timing."""
    numbers = isinstance(found, list) and all(isinstance(x, (int, float)) for x in found)
    return numbers and len(found) == 2


def versions() -> dict[str, Any]:
    """Return the versions that choices and verdicts depend on, as part of a key in the cache."""
    driver = getattr(torch._C, "_cuda_getDriverVersion", None)
    found = driver() if driver is not None and torch.cuda.is_available() else 0
    return {"torch": torch.__version__, "triton": triton.__version__, "driver": found}


@dataclass
class Race:
    """A race between candidates, by name; the first is the default.

    `key` holds everything that the outcome depends on. `device` is the index of the GPU, or -1 if
    that is the current device.
    """

    key: Mapping[str, Any]
    names: Sequence[str]
    device: int = -1
    times: dict[str, Timing] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    # those that do not exist for this computation, or not any more
    absent: set[str] = field(default_factory=set)
    # whether a candidate lacked memory: what is found then is not remembered
    short: bool = False
    calls: int = 0

    def __post_init__(self) -> None:
        known = (cache.recall(self.key) or {}).get("times")
        known = known if isinstance(known, dict) else {}
        for name in self.names:
            found = known.get(name, "unknown")
            if found is None:
                self.failed.add(name)
            elif _is_timing(found):
                self.times[name] = Timing(*found)

    @property
    def left(self) -> list[str]:
        """The candidates that are not timed yet; none if there is nothing to choose from."""
        out = self.failed | self.absent
        if out.issuperset(self.names[1:]):
            return []
        return [n for n in self.names if n not in self.times and n not in out]

    @property
    def starts(self) -> bool:
        """Whether the next call times the first of several candidates."""
        now = self.calls == 1 or (self.calls == 0 and PACE.all_now)
        return bool(now and self.left) and not (PACE.paused or rehearsing())

    @property
    def winner(self) -> str:
        """The first candidate, unless all were timed and another is faster by the margin."""
        times = {name: x.gpu for name, x in self.times.items() if name not in self.absent}
        if self.left or not times:
            return self.names[0]
        best = min(times, key=lambda name: times[name])
        first = times.get(self.names[0])
        slower = first is None or times[best] < (1 - MARGIN) * first
        return best if slower else self.names[0]

    def go_on(
        self,
        run: Callable[[str], Any],
        timer: RaceTimer,
        available: Callable[[str], bool] = lambda name: True,
        agrees: Callable[[str], bool] = lambda name: True,
    ) -> str:
        """Time one more candidate, unless this is the first call; return the one to be used.

        `available` returns whether a candidate exists, and is called only before it is needed.
        `agrees` returns whether its results are those of the first candidate.
        """
        if not rehearsing():
            self._go_on(run, timer, available, agrees)
        while self.winner != self.names[0] and not available(self.winner):
            self.absent.add(self.winner)
        return self.winner

    def _go_on(
        self,
        run: Callable[[str], Any],
        timer: RaceTimer,
        available: Callable[[str], bool],
        agrees: Callable[[str], bool],
    ) -> None:
        if self.starts:
            self.absent |= {n for n in self.names[1:] if not available(n)}
        self.calls += 1
        if not PACE.paused:
            while PACE.all_now and self.left:
                self._step(self.left[0], run, timer, agrees)
            if self.left and self.calls > 1:
                self._step(self.left[0], run, timer, agrees)
        PACE.unfinished |= bool(self.left)

    def _step(
        self,
        name: str,
        run: Callable[[str], Any],
        timer: RaceTimer,
        agrees: Callable[[str], bool],
    ) -> None:
        """Time a candidate, or let the races within it go on if they are not finished."""
        try:
            with torch.cuda.device(self.device) if self.device >= 0 else nullcontext():
                if not settled(partial(run, name)):
                    return
                if not agrees(name):
                    self.failed.add(name)
                    return
                limit = HOPELESS * min((t.gpu for t in self.times.values()), default=math.inf)
                with paused():
                    self.times[name] = timer(partial(run, name), limit)
        except torch.OutOfMemoryError as error:
            self.failed.add(name)
            self.short = True
            _LOG.info("%s is not timed: %s", name, error)
        except (TritonError, RuntimeError) as error:
            self.failed.add(name)
            _LOG.info("%s does not run: %s", name, error)
        self._remember()

    def _remember(self) -> None:
        """Keep what was timed, unless a candidate lacked memory, or nothing ran."""
        if self.times and not self.short:
            failed: dict[str, Any] = dict.fromkeys(self.failed)
            cache.remember(self.key, {"times": {**failed, **self.times}})
