"""The execution strategy of a loop, and what the cost model predicts for it and for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphnn.kernels.select.estimates import CostEstimates
from graphnn.kernels.select.strategies import COOPERATIVE, RESIDENT, STEPWISE, strategy_name

# the batch size of the predictions in reports, and how often it is doubled to find the batch size
# from which another strategy is faster
REPORTED_ROWS, DOUBLINGS = 16, 15
# why a strategy is used although another one is predicted to be faster
ALTHOUGH_SLOWER = {
    RESIDENT: "persistent nevertheless: no block waits for others, which is predicted least well",
    COOPERATIVE: "cooperative, with the number of blocks whose kernel compiles without fault",
    STEPWISE: "stepwise, because no kernel sharded over blocks compiles without fault",
}


@dataclass(frozen=True)
class LoopStrategy:
    """How one loop runs, or several loops side by side, and why.

    `estimates` has the cost estimates of each loop, and is empty if nothing was predicted.
    """

    strategy: str
    reason: str
    estimates: tuple[CostEstimates, ...] = ()

    def rows(self, sizes: Mapping[str, int]) -> int:
        """Return the number of rows of a call with these lengths of the axes."""
        return math.prod(sizes[a] for x in self.estimates[:1] for a in x.program.rows)

    def predicted(self, rows: int) -> dict[str, float]:
        """Return the predicted microseconds per step for a number of rows, by strategy."""
        found = [x.per_step(rows) for x in self.estimates]
        names = [n for n in (found[0] if found else ()) if all(n in x for x in found)]
        # kernels side by side need the time of the slower one, launches one after the other that
        # of both
        total: dict[str, Callable[[list[float]], float]] = {STEPWISE: sum}
        return {n: total.get(n, max)([x[n] for x in found]) for n in names}

    def best(self, rows: int) -> str:
        """Return the strategy for a number of rows: stepwise if it is predicted to be faster."""
        found = self.predicted(rows)
        slower = found.get(self.strategy, 0.0) > found.get(STEPWISE, math.inf)
        return STEPWISE if slower else self.strategy

    def report(self) -> list[str]:
        """Return the predictions as text: the times, and where another strategy is faster."""
        found = self.predicted(REPORTED_ROWS)
        if not found:
            return []
        details = self.estimates[0].descriptions()
        each = ", ".join(f"{_named(n, details)} {us:.1f}" for n, us in found.items())
        line = f"predicted µs per step at batch {REPORTED_ROWS} (cost model, not measured): {each}"
        if found.get(self.strategy, 0.0) > min(found.values()):
            line += f"; {ALTHOUGH_SLOWER[self.strategy]}"
        counts = (REPORTED_ROWS << k for k in range(DOUBLINGS))
        more = next((n for n in counts if self.best(n) != self.strategy), None)
        if more is None:
            return [line]
        times = ", ".join(f"{_named(n)} {us:.1f}" for n, us in self.predicted(more).items())
        better = strategy_name(self.best(more))
        return [line, f"{better} is faster above batch {more // 2:,} (at {more:,}: {times})"]


def _named(strategy: str, details: Mapping[str, str] | None = None) -> str:
    name = strategy_name(strategy)
    return f"{name} ({details[strategy]})" if details and strategy in details else name
