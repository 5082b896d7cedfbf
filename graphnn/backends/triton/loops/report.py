"""How a loop is run, and what the cost model predicts for this strategy and for the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphnn.kernels.select.estimates import COOPERATIVE, RESIDENT, STEPWISE, CostEstimates
from graphnn.planner.loops.choose import strategy_name

# the batch of predictions, and how often it is doubled to find where another strategy wins
FEWEST, DOUBLED = 16, 15
# why a strategy is kept although the cost model predicts another to be faster
ALL_THE_SAME = {
    RESIDENT: "persistent nevertheless: no block waits for others, which is predicted least well",
    COOPERATIVE: "cooperative, with the number of blocks whose kernel compiles without fault",
    STEPWISE: "stepwise, because no kernel sharded over blocks compiles without fault",
}


@dataclass(frozen=True)
class Choice:
    """How one loop is run, or loops side by side, and why; `figures` are those of each loop's ways,
    where it was asked what fits a GPU."""

    regime: str
    reason: str
    figures: tuple[CostEstimates, ...] = ()

    def rows(self, sizes: Mapping[str, int]) -> int:
        """How many rows a call of these sizes has."""
        return math.prod(sizes[a] for x in self.figures[:1] for a in x.program.rows)

    def expected(self, rows: int) -> dict[str, float]:
        """Microseconds of a step of so many rows, by regime, as the model has it."""
        found = [x.per_step(rows) for x in self.figures]
        ways = [way for way in (found[0] if found else ()) if all(way in x for x in found)]
        # kernels side by side take the time of the slower one, launches that of both
        side: dict[str, Callable[[list[float]], float]] = {STEPWISE: sum}
        return {way: side.get(way, max)([x[way] for x in found]) for way in ways}

    def best(self, rows: int) -> str:
        """The regime for so many rows: as planned, or step by step where the model prefers that."""
        found = self.expected(rows)
        slower = found.get(self.regime, 0.0) > found.get(STEPWISE, math.inf)
        return STEPWISE if slower else self.regime

    def report(self) -> list[str]:
        """The candidates with their figures, and beyond how many rows another one is taken."""
        found = self.expected(FEWEST)
        if not found:
            return []
        words = self.figures[0].descriptions()
        each = ", ".join(
            f"{strategy_name(way)}{f' ({words[way]})' if way in words else ''} {x:.1f}"
            for way, x in found.items()
        )
        line = f"predicted µs per step at batch {FEWEST} (cost model, not measured): {each}"
        if found.get(self.regime, 0.0) > min(found.values()):
            line += f"; {ALL_THE_SAME[self.regime]}"
        counts = (FEWEST << k for k in range(DOUBLED))
        more = next((n for n in counts if self.best(n) != self.regime), None)
        if more is None:
            return [line]
        why = ", ".join(f"{strategy_name(k)} {x:.1f}" for k, x in self.expected(more).items())
        better = strategy_name(self.best(more))
        return [line, f"{better} is faster above batch {more // 2:,} (at {more:,}: {why})"]
