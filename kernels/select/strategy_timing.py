"""Which of several ways to compute the same is the fastest on the GPU at hand: timed, remembered.

All ways are timed on the first call of a form: what is computed, its sizes in powers of two, its
dtype, the GPU, the versions of torch and Triton. Later calls and processes look the winner up.
Where nothing is timed (no GPU, launches that are recorded, `tune.wanted` says no) the way that the
caller would take is taken. Ways may differ in rounding: within a process a form keeps its way.

Its logic is tested with a made-up timer and GPU; no GPU has timed a choice yet.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.errors import TritonError

from .. import cache
from . import autotune

_LOG = logging.getLogger(__name__)
# sizes of calls that are looked up as they are: in powers of two takes several times as long
SEEN = 256


@dataclass(frozen=True)
class Chosen:
    """The way of a form of call, and the milliseconds that each took (none: it was not timed)."""

    way: str
    device: str
    sizes: Mapping[str, int]
    direction: str
    times: Mapping[str, float]

    @property
    def words(self) -> str:
        """For users: where it was timed, for which calls, and how long each way took."""
        least = sorted(self.times.items(), key=lambda x: x[1])
        up_to = ", ".join([self.direction, *_up_to(self.sizes)])
        took = ", ".join(f"{way} {ms:.3g} ms" for way, ms in least)
        return f"timed on {self.device} ({up_to}): {took}; {self.way} is taken"


def gpu_of(tensor: torch.Tensor) -> str | None:
    """The name of the GPU that a tensor lies on; None: it lies elsewhere, and nothing is timed."""
    return autotune.gpu(tensor.get_device())[0] if tensor.is_cuda else None


def _up_to(sizes: Mapping[str, int]) -> list[str]:
    return [f"{axis} up to {n:,}" for axis, n in sizes.items()]


def power(n: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(0, n - 1).bit_length()


@dataclass(frozen=True)
class Ways:
    """The ways to compute something, by name: which is taken untimed for sizes in powers of two,
    whether one is there (asked of each only when it may be taken), and how it is run."""

    names: Sequence[str]
    first: Callable[[Mapping[str, int]], str]
    able: Callable[[str], bool]
    run: Callable[[str], Any]


class Chooser:
    """The choices of one computation; `what` is all that it is made of, whatever the sizes.

    Without `tuned` nothing is timed.
    """

    def __init__(self, what: str, tuned: bool = True):
        self.what, self.tuned = hashlib.sha256(what.encode()).hexdigest(), tuned
        self.chosen: dict[Any, Chosen] = {}
        self._seen: dict[Any, str] = {}

    def choose(
        self,
        like: torch.Tensor,
        sizes: Mapping[str, int],
        ways: Callable[[], Ways],
        direction: str,
    ) -> str:
        """The way for a call of these sizes in this `direction`, of the dtype and the device of
        `like`. `ways` are asked for only where a form is new."""
        timing = self.tuned and autotune.wanted()
        place = like.dtype, like.device, timing, torch.get_float32_matmul_precision(), direction
        key = (*place, *sizes.values())
        known = self._seen.get(key)
        if known is None:
            known = self._choose(place, like, sizes, ways(), direction)
            if not autotune.capturing():
                self._seen = {**self._seen, key: known} if len(self._seen) < SEEN else {key: known}
        return known

    def _choose(
        self,
        place: tuple[Any, ...],
        like: torch.Tensor,
        sizes: Mapping[str, int],
        ways: Ways,
        direction: str,
    ) -> str:
        """As it was chosen for other calls of these sizes in powers of two, or by timing now."""
        device = gpu_of(like)
        about = {a: power(n) for a, n in sizes.items()}
        # what takes no time says nothing of others
        timing = device is not None and place[2] and 0 not in sizes.values()
        key = (*place, timing, *about.values())
        if key not in self.chosen:
            first = ways.first(about)
            if timing and autotune.capturing():  # nothing can be timed now
                return first
            self.chosen[key] = (
                self._timed(first, like, str(device), about, ways, direction)
                if timing
                else Chosen(first, "", about, direction, {})
            )
        return self.chosen[key].way

    def _timed(
        self,
        first: str,
        like: torch.Tensor,
        device: str,
        about: Mapping[str, int],
        ways: Ways,
        direction: str,
    ) -> Chosen:
        """What an earlier process found, or this one finds by timing all ways."""
        key = {
            "what": "way",
            "of": self.what,
            "direction": direction,
            "sizes": dict(about),
            "dtype": str(like.dtype),
            "float32": torch.get_float32_matmul_precision(),
            "device": device,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }
        known = cache.recall(key) or {}
        if known.get("way") not in ways.names or not ways.able(known["way"]):
            known = self._raced(first, ways)
            cache.remember(key, known)
        return Chosen(known["way"], device, about, direction, known.get("times", {}))

    def _raced(self, first: str, ways: Ways) -> dict[str, Any]:
        """The fastest way, `first` unless another gains by the margin, and all times; a way that
        fails is passed over."""
        times: dict[str, float] = {}
        able = [way for way in ways.names if ways.able(way)]
        if able == [first]:
            return {"way": first, "times": {}}
        for way in able:
            try:
                times[way] = autotune.timed(functools.partial(ways.run, way))
            except (TritonError, RuntimeError) as error:
                _LOG.info("%s does not run: %s", way, error)
        best = min(times, key=lambda x: times[x], default=first)
        gains = first not in times or times[best] < (1 - autotune.MARGIN) * times[first]
        return {"way": best if gains else first, "times": times}

    def says(self) -> list[str]:
        """What was timed, in words for users."""
        return [x.words for x in self.chosen.values() if x.times]
