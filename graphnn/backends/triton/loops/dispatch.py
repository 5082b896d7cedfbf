"""One function in several variants, which run its loops by different strategies.

All variants have the same arguments and results, so that forward and backward may use different
strategies: the backward reads what any forward saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.triton.loops.report import LoopStrategy
from graphnn.kernels.select.strategies import COOPERATIVE, STEPWISE
from graphnn.kernels.select.strategy_timing import Strategies, StrategyTuner

# the switches of a variant; a cooperative kernel is written even if stepwise is predicted faster
SWITCHES: dict[str, dict[str, bool]] = {
    COOPERATIVE: {"resident": False, "only_if_faster": False},
    STEPWISE: {"resident": False, "cooperative": False},
}


class VariantLowering(Protocol):
    """What a dispatcher needs of a lowering: settings, and lowerings with other switches."""

    tune: bool
    float32: str | None
    choices: dict[str, LoopStrategy]

    def with_switches(self, **switches: bool) -> VariantLowering:
        """Return a lowering with kernels of its own, and these switches."""
        ...


Write = Callable[[Any], Function]


class StrategyDispatcher:
    """Runs a function by the fastest variant for the sizes of each call.

    `first` is the planned variant, of the loops `choices`, with the kernels `texts`. `write` writes
    the function with another lowering. `direction` names the function in reports.
    """

    def __init__(
        self,
        lowering: VariantLowering,
        write: Write,
        first: Function,
        choices: Sequence[LoopStrategy],
        texts: Sequence[str],
        direction: str,
    ):
        self.direction = direction
        self.lowering, self.write, self.first, self.choices = lowering, write, first, choices
        self.planned = choices[0].strategy
        self.calls: dict[str, Any] = {self.planned: first.call}
        made = [first.source, *texts, f"float32: {lowering.float32}"]
        self.tuner = StrategyTuner("\n".join(made), lowering.tune)

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        like = tensors[self.first.floating or 0]
        lengths = dict(zip(self.first.axes, sizes, strict=True))
        signatures = len(self.tuner.choices)
        strategies = lambda: self._strategies(tensors, sizes)
        name = self.tuner.choose(like, lengths, strategies, self.direction)
        if len(self.tuner.choices) > signatures:
            self._drop_unused()
        return self._variant(name)(tensors, sizes)  # type: ignore[no-any-return]

    def _strategies(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> Strategies:
        return Strategies(
            [self.planned, *(x for x in SWITCHES if x != self.planned)],
            self.predicted_best,
            lambda name: self._variant(name) is not None,
            lambda name: self._variant(name)(tensors, sizes),
        )

    def predicted_best(self, sizes: Mapping[str, int]) -> str:
        """Return the planned strategy, or stepwise if it is predicted faster for all loops."""
        found = {c.best(c.rows(sizes)) for c in self.choices}
        return STEPWISE if found == {STEPWISE} else self.planned

    def _variant(self, name: str) -> Any:
        """Return the function by another strategy; None if its loops cannot run by it."""
        if name not in self.calls:
            other = self.lowering.with_switches(**SWITCHES[name])
            made = self.write(other)
            found = {c.strategy for c in other.choices.values()}
            self.calls[name] = made.call if name in found else None
        return self.calls[name]

    def _drop_unused(self) -> None:
        """Drop the variants that lost, and the memory that their recorded launches hold."""
        used = {self.planned, *(x.strategy for x in self.tuner.choices.values())}
        self.calls = {k: call for k, call in self.calls.items() if call is None or k in used}

    def report(self) -> list[str]:
        """Return the predictions and the timings as text."""
        lines = [line for choice in self.choices for line in choice.report()]
        return [*lines, *self.tuner.descriptions()]
