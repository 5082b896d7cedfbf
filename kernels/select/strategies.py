"""The execution strategies of a loop, and the names by which texts call them."""

from __future__ import annotations

# the strategies, in the order in which one that can run is taken if nothing is timed
RESIDENT, COOPERATIVE, STEPWISE = "resident", "cooperative", "stepwise"


def strategy_name(strategy: str) -> str:
    """Return a strategy as texts call it: what `skip="resident"` switches off is persistent."""
    return "persistent" if strategy == RESIDENT else strategy
