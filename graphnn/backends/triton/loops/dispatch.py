"""A function of loops written several times: once as planned, and in the regimes that its loops may
be run in besides, when a call's choice asks for them.

Every writing reads and gives the same, so that forward and backward may differ in regime: what the
forward saved is what the backward reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from graphnn.backends.torch.codegen.lowering import Function
from graphnn.backends.triton.loops.report import Choice
from graphnn.kernels.select.estimates import COOPERATIVE, STEPWISE
from graphnn.kernels.select.strategy_timing import Strategies, StrategyTuner

if TYPE_CHECKING:
    from graphnn.backends.triton.strategy import Lowering

# which regimes a writing leaves out; a kernel that blocks share is written though the model thinks
# going step by step faster
WITHOUT: dict[str, dict[str, bool]] = {
    COOPERATIVE: {"resident": False, "weighed": False},
    STEPWISE: {"resident": False, "cooperative": False},
}
Write = Callable[["Lowering"], Function]


class Several:
    """Runs one function in the regime that is chosen for a call's sizes.

    `first` is as planned, of the loops `choices`, made by the kernels `texts`; `write` writes it
    with another lowering.
    """

    def __init__(
        self,
        lowering: Lowering,
        write: Write,
        first: Function,
        choices: Sequence[Choice],
        texts: Sequence[str],
        direction: str,
    ):
        self.direction = direction
        self.lowering, self.write, self.first, self.choices = lowering, write, first, choices
        self.planned = choices[0].regime
        self.calls: dict[str, Any] = {self.planned: first.call}
        made = [first.source, *texts, f"float32: {lowering.float32}"]
        self.chooser = StrategyTuner("\n".join(made), lowering.tune)

    def __call__(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> list[torch.Tensor]:
        like = tensors[self.first.floating or 0]
        known = dict(zip(self.first.axes, sizes, strict=True))
        forms = len(self.chooser.choices)
        way = self.chooser.choose(like, known, lambda: self._ways(tensors, sizes), self.direction)
        if len(self.chooser.choices) > forms:
            self._forget()
        return self._written(way)(tensors, sizes)  # type: ignore[no-any-return]

    def _ways(self, tensors: Sequence[torch.Tensor], sizes: Sequence[int]) -> Strategies:
        return Strategies(
            [self.planned, *(x for x in WITHOUT if x != self.planned)],
            self.foretold,
            lambda way: self._written(way) is not None,
            lambda way: self._written(way)(tensors, sizes),
        )

    def foretold(self, sizes: Mapping[str, int]) -> str:
        """As planned, or step by step where the model has that faster for all loops."""
        found = {c.best(c.rows(sizes)) for c in self.choices}
        return STEPWISE if found == {STEPWISE} else self.planned

    def _written(self, way: str) -> Any:
        """The function in other regimes; None where its loops cannot be run in them."""
        if way not in self.calls:
            other = self.lowering.without(**WITHOUT[way])
            made = self.write(other)
            regimes = {c.regime for c in other.choices.values()}
            self.calls[way] = made.call if way in regimes else None
        return self.calls[way]

    def _forget(self) -> None:
        """Let go of what lost, and of the memory that its recorded launches hold."""
        taken = {self.planned, *(x.strategy for x in self.chooser.choices.values())}
        self.calls = {k: call for k, call in self.calls.items() if call is None or k in taken}

    def report(self) -> list[str]:
        """The candidates and what was measured of them, in words for users."""
        lines = [line for choice in self.choices for line in choice.report()]
        return [*lines, *self.chooser.descriptions()]
