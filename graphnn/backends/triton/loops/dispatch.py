"""One function in several variants, which run its loops by different strategies.

All variants have the same arguments and results, so that forward and backward may use different
strategies: the backward reads what any forward saved. On a GPU, each variant is compared with torch
before its results are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.triton.loops.report import LoopStrategy
from graphnn.backends.triton.loops.trusted import TrustedLoop
from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.select.strategies import COOPERATIVE, STEPWISE
from graphnn.kernels.select.strategy_timing import Strategies, StrategyTuner
from graphnn.kernels.trust.gate import Gate

# the switches of a variant; a cooperative kernel is written even if stepwise is predicted faster
SWITCHES: dict[str, dict[str, bool]] = {
    COOPERATIVE: {"resident": False, "only_if_faster": False},
    STEPWISE: {"resident": False, "cooperative": False},
}


class VariantLowering(Protocol):
    """What a dispatcher needs of a lowering: settings, and lowerings with other switches."""

    tune: bool
    choices: dict[str, LoopStrategy]

    @property
    def key(self) -> str:
        """Every option as text."""
        ...

    @property
    def executor(self) -> Executor:
        """What runs the kernels."""
        ...

    def with_switches(self, **switches: Any) -> VariantLowering:
        """Return a lowering with kernels of its own, and these switches."""
        ...


Write = Callable[[Any], Function]


class StrategyDispatcher:
    """Runs a function by the fastest variant for the sizes of each call.

    `first` is the planned variant, of the loops `choices`, with kernels of these `digests`. `write`
    writes the function with another lowering. `direction` names the function in reports, `layer`
    the loop, which is over `axis`.
    """

    def __init__(
        self,
        lowering: VariantLowering,
        write: Write,
        first: Function,
        choices: Sequence[LoopStrategy],
        digests: Sequence[str],
        direction: str,
        layer: str = "",
        axis: str = "",
    ):
        self.direction = direction
        self.lowering, self.write, self.first, self.choices = lowering, write, first, choices
        self.planned = choices[0].strategy
        self.calls: dict[Any, Any] = {(self.planned, 0): first.call}
        self.trusted: TrustedLoop | None = None
        if lowering.executor.checked:
            gate = Gate(f"{layer}, {direction}", lowering.executor)
            torch_code = lambda: write(None)
            self.trusted = TrustedLoop(gate, first, axis, self._variant, torch_code)
        made = [first.source, *digests, lowering.key]
        steps = {x.program.axis for choice in choices for x in choice.estimates}
        self.tuner = StrategyTuner("\n".join(made), lowering.tune, steps)

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        like = tensors[self.first.floating or 0]
        lengths = dict(zip(self.first.axes, sizes, strict=True))
        signatures = len(self.tuner.choices)
        strategies = lambda: self._strategies(tensors, sizes)
        name = self.tuner.choose(like, lengths, strategies, self.direction)
        if len(self.tuner.choices) > signatures:
            self._drop_unused()
        return self._run(name, tensors, sizes)

    def _run(
        self, name: str, tensors: Sequence[torch.Tensor], sizes: Sequence[int]
    ) -> list[torch.Tensor]:
        if self.trusted is not None:
            return self.trusted(name, tensors, sizes)
        return self._variant(name)(tensors, sizes)  # type: ignore[no-any-return]

    def _strategies(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> Strategies:
        return Strategies(
            [self.planned, *(x for x in SWITCHES if x != self.planned)],
            self.predicted_best,
            lambda name: self._available(name, tensors, sizes),
            lambda name: self._run(name, tensors, sizes),
        )

    def _available(self, name: str, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> bool:
        """Return whether a strategy exists, and computes what torch does if that is checked."""
        if self._variant(name) is None:
            return False
        return self.trusted is None or self.trusted.usable(name, tensors, sizes)

    def predicted_best(self, sizes: Mapping[str, int]) -> str:
        """Return the planned strategy, or stepwise if it is predicted faster for all loops."""
        if not self.choices[0].estimates:
            return self.planned
        found = {c.best(c.rows(sizes)) for c in self.choices}
        return STEPWISE if found == {STEPWISE} else self.planned

    def _variant(self, name: str, rows: int = 0) -> Any:
        """Return the function by another strategy; None if its loops cannot run by it.

        Its tiles have at most `rows` rows, unless that is 0.
        """
        if (name, rows) not in self.calls:
            own = {} if name == self.planned else SWITCHES.get(name)
            self.calls[name, rows] = None if own is None else self._written(name, own, rows)
        return self.calls[name, rows]

    def _written(self, name: str, switches: Mapping[str, bool], rows: int) -> Any:
        other = self.lowering.with_switches(**switches, **({"rows": rows} if rows else {}))
        made = self.write(other)
        return made.call if name in {c.strategy for c in other.choices.values()} else None

    def _drop_unused(self) -> None:
        """Drop the variants that lost, and the memory that their recorded launches hold."""
        used = {self.planned, *(x.strategy for x in self.tuner.choices.values())}
        self.calls = {k: call for k, call in self.calls.items() if call is None or k[0] in used}
        if self.trusted is not None:
            self.trusted.keep_only(used)

    @property
    def refused(self) -> list[str]:
        """The ways that were refused, and why, as text."""
        found = self.trusted.gate.refused if self.trusted is not None else {}
        return [f"{self.direction}: {way} is refused: {reason}" for way, reason in found.items()]

    def report(self) -> list[str]:
        """Return the predictions and the timings as text."""
        lines = [line for choice in self.choices for line in choice.report()]
        return [*lines, *self.tuner.descriptions(), *self.refused]
