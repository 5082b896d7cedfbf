"""Strategy timing: finds the fastest of several equivalent strategies on the current GPU.

All strategies are timed on the first call with a new signature: the computation, its sizes rounded
up to powers of two, its dtype, the GPU, and the versions of torch and Triton. Later calls and
processes look the winner up. The default strategy is taken if nothing can be timed: without a GPU,
while launches are captured, or if `autotune.timing_enabled` returns False. Strategies may round
differently; within a process, a signature always keeps its strategy.

The logic is tested with a fake timer and GPU; no GPU has timed a choice yet.
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
from ..executors.named import GPU
from ..precision import matmul_precision
from . import autotune
from .strategies import strategy_name

_LOG = logging.getLogger(__name__)
# The most calls that are looked up by exact sizes: rounding to powers of two takes several times
# as long.
MAX_SEEN = 256


@dataclass(frozen=True)
class StrategyChoice:
    """The strategy for a signature, and the milliseconds of each (empty if none was timed)."""

    strategy: str
    device: str
    sizes: Mapping[str, int]
    direction: str
    times: Mapping[str, float]

    @property
    def description(self) -> str:
        """Where it was timed, for which calls, and how long each strategy took, as text."""
        fastest_first = sorted(self.times.items(), key=lambda x: x[1])
        signature = ", ".join([self.direction, *_size_ranges(self.sizes)])
        times = ", ".join(f"{strategy_name(name)} {ms:.3g} ms" for name, ms in fastest_first)
        used = strategy_name(self.strategy)
        return f"timed on {self.device} ({signature}): {times}; {used} is used"


def gpu_name(tensor: torch.Tensor) -> str | None:
    """Return the name of the GPU of a tensor, or None if it is elsewhere: nothing is timed then."""
    return GPU.gpu(tensor.get_device()).name if tensor.is_cuda else None


def _float32_setting(like: torch.Tensor) -> str:
    """Return torch's setting for matmuls of float32, if calls like `like` have any."""
    return matmul_precision() if like.dtype == torch.float32 else ""


def _size_ranges(sizes: Mapping[str, int]) -> list[str]:
    return [f"{axis} up to {n:,}" for axis, n in sizes.items()]


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()


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

    Without `tuned` nothing is timed.
    """

    def __init__(self, what: str, tuned: bool = True):
        self.what, self.tuned = hashlib.sha256(what.encode()).hexdigest(), tuned
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

        The call has the dtype and device of `like`. `strategies` is called only for a new
        signature.
        """
        timing = self.tuned and autotune.timing_enabled()
        context = like.dtype, like.device, timing, _float32_setting(like), direction
        key = (*context, *sizes.values())
        known = self._seen.get(key)
        if known is None:
            known = self._choose(context, like, sizes, strategies(), direction)
            if not autotune.is_capturing():
                seen = self._seen if len(self._seen) < MAX_SEEN else {}
                self._seen = {**seen, key: known}
        return known

    def _choose(
        self,
        context: tuple[Any, ...],
        like: torch.Tensor,
        sizes: Mapping[str, int],
        strategies: Strategies,
        direction: str,
    ) -> str:
        """Return the choice for the sizes rounded up to powers of two, timed now if it is new."""
        device = gpu_name(like)
        rounded = {a: next_power_of_two(n) for a, n in sizes.items()}
        # a call that takes no time shows nothing about others
        timing = device is not None and context[2] and 0 not in sizes.values()
        key = (*context, timing, *rounded.values())
        if key not in self.choices:
            default = strategies.default(rounded)
            if timing and autotune.is_capturing():  # nothing can be timed now
                return default
            self.choices[key] = (
                self._timed(default, like, str(device), rounded, strategies, direction)
                if timing
                else StrategyChoice(default, "", rounded, direction, {})
            )
        return self.choices[key].strategy

    def _timed(
        self,
        default: str,
        like: torch.Tensor,
        device: str,
        sizes: Mapping[str, int],
        strategies: Strategies,
        direction: str,
    ) -> StrategyChoice:
        """Return the choice of an earlier process, or time all strategies now."""
        key = {
            "what": "strategy",
            "of": self.what,
            "direction": direction,
            "sizes": dict(sizes),
            "dtype": str(like.dtype),
            "float32": _float32_setting(like),
            "device": device,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }
        known = cache.recall(key) or {}
        strategy = known.get("strategy", "")
        if strategy not in strategies.names or not strategies.available(strategy):
            known = self._time_all(default, strategies)
            cache.remember(key, known)
        return StrategyChoice(known["strategy"], device, sizes, direction, known.get("times", {}))

    def _time_all(self, default: str, strategies: Strategies) -> dict[str, Any]:
        """Time all strategies; return the fastest, or `default` unless one is faster by the margin.

        Strategies that fail to run are skipped.
        """
        times: dict[str, float] = {}
        available = [name for name in strategies.names if strategies.available(name)]
        if available == [default]:
            return {"strategy": default, "times": {}}
        for name in available:
            try:
                times[name] = autotune.time_on_gpu(functools.partial(strategies.run, name))
            except (TritonError, RuntimeError) as error:
                _LOG.info("%s does not run: %s", strategy_name(name), error)
        best = min(times, key=lambda x: times[x], default=default)
        faster = default not in times or times[best] < (1 - autotune.MARGIN) * times[default]
        return {"strategy": best if faster else default, "times": times}

    def descriptions(self) -> list[str]:
        """Return the measured times, as text for users."""
        return [x.description for x in self.choices.values() if x.times]
