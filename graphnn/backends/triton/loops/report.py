"""How a loop is run, and what the model expects of that and of the other ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphnn.kernels.select.estimates import COOPERATIVE, RESIDENT, STEPWISE, CostEstimates

# rows for which figures are told, and how often they are doubled to see whether others win
FEWEST, DOUBLED = 16, 15
# why a regime is taken though the model has another faster
ALL_THE_SAME = {
    RESIDENT: "resident all the same: it waits for no other block, which the model knows least",
    COOPERATIVE: "cooperative, of the blocks whose kernel compiles without fault",
    STEPWISE: "stepwise, as no kernel that blocks share compiles without fault",
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
            f"{way}{f' ({words[way]})' if way in words else ''} {x:.1f}" for way, x in found.items()
        )
        line = f"candidates, us a step of {FEWEST} rows (a model's, confirmed by no GPU): {each}"
        if found.get(self.regime, 0.0) > min(found.values()):
            line += f"; {ALL_THE_SAME[self.regime]}"
        counts = (FEWEST << k for k in range(DOUBLED))
        more = next((n for n in counts if self.best(n) != self.regime), None)
        if more is None:
            return [line]
        why = ", ".join(f"{way} {x:.1f}" for way, x in self.expected(more).items())
        return [line, f"{self.best(more)} from {more // 2 + 1:,} rows on (of {more:,}: {why})"]
