"""The pace of tuning: one candidate per call, all of them at once, or none while a run is timed.

The state is one for the whole process: a backward runs in a thread of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass
class Pace:
    """How fast races go on. `unfinished` is whether one of them has candidates left."""

    holds: int = 0
    whole: int = 0
    unfinished: bool = False

    @property
    def paused(self) -> bool:
        """Whether a run is timed now, so that no race may go on."""
        return self.holds > 0

    @property
    def all_now(self) -> bool:
        """Whether a call times all candidates before it returns."""
        return self.whole > 0 or os.environ.get("GRAPHNN_TUNE") == "all"


PACE = Pace()


@contextmanager
def all_at_once() -> Iterator[None]:
    """Time all candidates of every call within this block before the call returns."""
    PACE.whole += 1
    try:
        yield
    finally:
        PACE.whole -= 1


@contextmanager
def paused() -> Iterator[None]:
    """Let no race go on within this block: a run is timed."""
    PACE.holds += 1
    try:
        yield
    finally:
        PACE.holds -= 1


def settled(run: Callable[[], Any]) -> bool:
    """Run once. Returns whether no race within the run has a candidate left to time."""
    before, PACE.unfinished = PACE.unfinished, False
    try:
        run()
        return not PACE.unfinished
    finally:
        PACE.unfinished = before
