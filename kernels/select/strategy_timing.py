"""Strategy timing: finds the fastest of several equivalent strategies on the current GPU.

The strategies race on calls with one signature: the computation, its sizes in steps, its dtype, the
GPU, and the versions of torch, Triton and the driver. One is timed per call: see `race`. Later
processes look the times up. The default strategy is taken until then, and if nothing can be timed:
without a GPU, while launches are captured, or if `autotune.timing_enabled` returns False.
Strategies may round differently; within a process, a signature keeps its strategy once all are
timed. The GPU's time decides; the CPU's time is told if it is longer.

The logic is tested with a fake timer and GPU; no GPU has timed a choice yet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..executors.named import GPU
from ..precision import matmul_precision
from . import autotune, gpu_timer
from .gpu_timer import Timing
from .race import Race, versions
from .strategies import strategy_name

# The most calls that are looked up by exact sizes: rounding takes several times as long.
MAX_SEEN = 256
# Sizes for which choices are made: all that share a class share a choice. Rows fill the GPU in
# steps, so each power of two has its own, up to a number that fills it. The time of a loop is a
# fixed part plus one in proportion to its steps: few classes of steps suffice, and longer loops
# are judged by the time of the first long one.
ROWS = tuple(1 << k for k in range(10))
STEPS = (16, 64, 256)


@dataclass(frozen=True)
class StrategyChoice:
    """The strategy for a signature, and the times of each (empty if none was timed)."""

    strategy: str
    device: str
    sizes: Mapping[str, int]
    direction: str
    times: Mapping[str, Timing]

    @property
    def description(self) -> str:
        """Where it was timed, for which calls, and how long each strategy took, as text."""
        fastest_first = sorted(self.times.items(), key=lambda x: x[1].gpu)
        signature = ", ".join([self.direction, *_size_ranges(self.sizes)])
        times = ", ".join(f"{strategy_name(name)} {_time(x)}" for name, x in fastest_first)
        used = strategy_name(self.strategy)
        return f"timed on {self.device} ({signature}): {times}; {used} is used"


def gpu_name(tensor: torch.Tensor) -> str | None:
    """Return the name of the GPU of a tensor, or None if it is elsewhere: nothing is timed then."""
    return GPU.gpu(tensor.get_device()).name if tensor.is_cuda else None


def _float32_setting(like: torch.Tensor) -> str:
    """Return torch's setting for matmuls of float32, if calls like `like` have any."""
    return matmul_precision() if like.dtype == torch.float32 else ""


def _time(x: Timing) -> str:
    """Return a time as text, with that of the CPU if it is the longer one."""
    launched = f" (the CPU takes {x.host:.3g} ms to launch it)" if x.host > x.gpu else ""
    return f"{x.gpu:.3g} ms{launched}"


def _size_ranges(sizes: Mapping[str, int]) -> list[str]:
    return [f"{axis} {f'up to {n:,}' if n > 0 else f'above {-n:,}'}" for axis, n in sizes.items()]


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()


def size_class(n: int, classes: Sequence[int]) -> int:
    """Return the smallest class that holds `n`; minus the largest class if none does."""
    return next((c for c in classes if n <= c), -classes[-1])


@dataclass(frozen=True)
class Strategies:
    """Strategies to compute the same, by name.

    `default` returns the one used untimed for sizes in powers of two. `available` returns whether
    one exists, and is called only if it may be used. `run` runs one.
    """

    names: Sequence[str]
    default: Callable[[Mapping[str, int]], str]
    available: Callable[[str], bool]
    run: Callable[[str], Any]


class StrategyTuner:
    """Chooses strategies for one computation; `what` describes it completely but for its sizes.

    Without `tuned` nothing is timed. `steps` are the axes along which loops run.
    """

    def __init__(self, what: str, tuned: bool = True, steps: Collection[str] = ()):
        self.what, self.tuned = hashlib.sha256(what.encode()).hexdigest(), tuned
        self.steps = frozenset(steps)
        self.races: dict[Any, Race] = {}
        self.choices: dict[Any, StrategyChoice] = {}
        self._seen: dict[Any, str] = {}

    def choose(
        self,
        like: torch.Tensor,
        sizes: Mapping[str, int],
        strategies: Callable[[], Strategies],
        direction: str,
    ) -> str:
        """Return the strategy for a call with these sizes in this `direction`.

        The call has the dtype and device of `like`. `strategies` is called only for a signature
        without a final choice.
        """
        # a call that takes no time shows nothing about others
        timing = self.tuned and autotune.timing_enabled() and 0 not in sizes.values()
        context = like.dtype, like.device, timing, matmul_precision(), direction
        seen = (*context, *sizes.values())
        if seen in self._seen:
            return self._seen[seen]
        powers = {a: next_power_of_two(n) for a, n in sizes.items()}
        rounded = {a: self._class(a, n) for a, n in sizes.items()} if timing else powers
        key = (*context, *rounded.values())
        if key not in self.choices:
            made = strategies()
            default = made.default(powers)
            choice = self._raced(key, like, rounded, made, default, direction)
            if choice is None:
                return self.races[key].winner if key in self.races else default
            self.choices[key] = choice
        name = self.choices[key].strategy
        self._seen = {**(self._seen if len(self._seen) < MAX_SEEN else {}), seen: name}
        return name

    def _class(self, axis: str, n: int) -> int:
        return size_class(n, STEPS if axis in self.steps else ROWS)

    def _raced(
        self,
        key: tuple[Any, ...],
        like: torch.Tensor,
        sizes: Mapping[str, int],
        strategies: Strategies,
        default: str,
        direction: str,
    ) -> StrategyChoice | None:
        """Return the choice, or None while it is not final. Lets the race go on."""
        device = gpu_name(like)
        if device is None or not key[2]:
            return StrategyChoice(default, "", sizes, direction, {})
        if autotune.is_capturing():  # nothing can be timed now
            return None
        if key not in self.races:
            named = self._named(like, sizes, direction, device)
            names = dict.fromkeys([default, *strategies.names])
            self.races[key] = Race(named, list(names), like.get_device())
        race = self.races[key]
        name = race.go_on(strategies.run, gpu_timer.time_on_gpu, strategies.available)
        return None if race.left else StrategyChoice(name, device, sizes, direction, race.times)

    def _named(
        self, like: torch.Tensor, sizes: Mapping[str, int], direction: str, device: str
    ) -> dict[str, Any]:
        """Return everything that a choice depends on."""
        return {
            "what": "strategies",
            "of": self.what,
            "direction": direction,
            "sizes": dict(sizes),
            "dtype": str(like.dtype),
            "float32": matmul_precision(),
            "device": device,
            **versions(),
        }

    def descriptions(self) -> list[str]:
        """Return the measured times, as text for users."""
        return [x.description for x in self.choices.values() if x.times]
