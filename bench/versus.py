"""Compares two files of results: which timings became faster or slower beyond the noise.

Other load only adds to a time. So the fastest round is the most stable figure, and fastest rounds
are compared; medians are shown next to them.

The noise of a contender is 1.5 times the scatter of its fastest rounds, at least 10% per file, and
both files are added in quadrature. Scatter is the distance from the fastest round to the first
quartile, or between the fastest rounds of two sweeps.

The code of the peers does not change between the files. The median of their ratios is the drift of
the machine. A change of graphnn must exceed the noise both with and without the drift. The scatter
of the peers' ratios around the drift, four standard deviations, also counts as noise.

A timing that was taken once, or was interrupted by the system in every round, is not judged.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphnn.timing.results import Found, label
from graphnn.timing.suite import OURS
from graphnn.timing.table import console, head, ms

# two processes of the same code differ by up to LEAST, as their memory is placed differently
LEAST, WIDTH = 0.1, 1.5
# standard deviations that count as noise; one of them in median absolute deviations
FAR, MEDIAN_DEVIATION = 4.0, 1.4826
# the least number of peers that determine the drift
ENOUGH = 3
SAME = ("device", "torch", "triton", "python")
FASTER, SLOWER, WITHIN = "faster", "slower", "within noise"


@dataclass(frozen=True)
class Change:
    """The times of one contender in both files, in seconds.

    `before` and `after` are medians and `ratio` is after / before; `best` is the ratio of the
    fastest rounds.
    """

    case: str
    what: str
    contender: str
    before: float
    after: float
    ratio: float
    best: float
    noise: float
    verdict: str


@dataclass(frozen=True)
class Versus:
    """All changes, the drift of the machine, and warnings about differing conditions."""

    changes: list[Change]
    drift: float
    warnings: list[str]

    @property
    def slower(self) -> list[Change]:
        """Timings of graphnn that became slower beyond the noise."""
        return [c for c in self.changes if c.contender == OURS and c.verdict == SLOWER]

    def record(self) -> dict[str, Any]:
        """The comparison as JSON types."""
        changes = [asdict(c) for c in self.changes]
        return {"drift": self.drift, "warnings": self.warnings, "changes": changes}


def versus(first: Found, second: Found) -> Versus:
    """Compare the second file with the first, for each case that both have."""
    before, after = ({label(r): r["contenders"] for r in x["rows"]} for x in (first, second))
    pairs = [
        (where, name, before[where][name], after[where][name])
        for where in before
        if where in after
        for name in before[where]
        if name in after[where]
    ]
    drift = _drift(pairs)
    least = _scatter(pairs, drift)
    changes = [_change(where, name, a, b, drift, least) for where, name, a, b in pairs]
    return Versus(changes, drift, _warnings(first, second, set(before), set(after)))


def _drift(pairs: list[Any]) -> float:
    """The median ratio of the peers, whose code did not change; 1 if there are few peers."""
    ratios = _ratios(pairs)
    return statistics.median(ratios) if len(ratios) >= ENOUGH else 1.0


def _scatter(pairs: list[Any], drift: float) -> float:
    """The noise in the peers' ratios, by their median deviation, which outliers hardly affect."""
    ratios = _ratios(pairs)
    if len(ratios) < ENOUGH:
        return 1.0
    off = statistics.median(abs(math.log(r / drift)) for r in ratios)
    return math.exp(FAR * MEDIAN_DEVIATION * off)


def _ratios(pairs: list[Any]) -> list[float]:
    return [best(b) / best(a) for _, n, a, b in pairs if n != OURS and a["rounds"] > 1]


def _change(
    where: tuple[str, str],
    name: str,
    a: dict[str, Any],
    b: dict[str, Any],
    drift: float,
    least: float,
) -> Change:
    ratio, fastest = b["median"] / a["median"], best(b) / best(a)
    noise = max(least, 1 + math.hypot(spread(a), spread(b)))
    if unknown(a) or unknown(b):
        noise = math.inf
    slower = all(r > noise for r in (fastest, fastest / drift))
    faster = all(r < 1 / noise for r in (fastest, fastest / drift))
    verdict = SLOWER if slower else FASTER if faster else WITHIN
    return Change(*where, name, a["median"], b["median"], ratio, fastest, noise, verdict)


def unknown(standing: dict[str, Any]) -> bool:
    """Whether the noise of a timing is unknown: too few rounds, or all of them interrupted.

    On a busy machine the system interrupts every run that is longer than its time slice.
    """
    return standing["rounds"] < 3 or standing.get("clean", 1) == 0


def best(standing: dict[str, Any]) -> float:
    """The fastest round, or the first quartile if the file lacks it."""
    return float(standing.get("best", standing["low"]))


def spread(standing: dict[str, Any]) -> float:
    """The scatter of a contender's fastest rounds, as a fraction of the fastest."""
    least, sweeps = best(standing), standing.get("sweeps") or [best(standing)]
    quartile = (standing["low"] - least) / least
    return max(LEAST, WIDTH * quartile, WIDTH * (max(sweeps) - min(sweeps)) / least)


def _warnings(first: Found, second: Found, before: set[Any], after: set[Any]) -> list[str]:
    found = [
        f"{key} differs: {first['about'].get(key)} / {second['about'].get(key)}"
        for key in SAME
        if first["about"].get(key) != second["about"].get(key)
    ]
    for place, missing in (("first", after - before), ("second", before - after)):
        if missing:
            names = sorted({f"{case}, {what}" for case, what in missing})
            shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
            found.append(f"not in the {place} file: {shown} ({len(names)} in all)")
    return found


def show(found: Versus, first: Found, second: Found, out: Console | None = None) -> None:
    """Print the ratios, graphnn first, and which of them exceed the noise."""
    out = out or console()
    title = f"first: {head(first['about'])}\nsecond: {head(second['about'])}"
    table = Table(title=title, title_justify="left")
    for column in ("case", "pass", "contender"):
        table.add_column(column)
    for column in ("first ms", "second ms", "ratio", "fastest", "noise", ""):
        table.add_column(column, justify="right")
    for c in sorted(found.changes, key=lambda c: c.contender != OURS):
        noise = f"{c.noise:.2f}x" if math.isfinite(c.noise) else "unknown"
        cells = [c.case, c.what, c.contender, ms(c.before), ms(c.after), f"{c.ratio:.2f}x"]
        table.add_row(
            *cells, f"{c.best:.2f}x", noise, c.verdict, style="bold" if c.verdict != WITHIN else ""
        )
    out.print(table)
    for warning in found.warnings:
        out.print(Text(f"warning: {warning}"))
    out.print(Text(summary(found)))


def summary(found: Versus) -> str:
    """The result in one or two lines."""
    peers = f"the peers (unchanged code) took {found.drift:.2f}x the time"
    all_ours = [c for c in found.changes if c.contender == OURS]
    silent = sum(math.isinf(c.noise) for c in all_ours)
    if silent:
        peers += (
            f"; {silent} of {len(all_ours)} timings of graphnn were not judged: they were "
            "timed once, or interrupted by the system in every round"
        )
    ours = [c for c in all_ours if c.verdict != WITHIN]
    if not ours:
        return f"no significant change of graphnn; {peers}"
    words = ", ".join(f"{c.case} {c.what} {c.verdict} ({c.best:.2f}x)" for c in ours)
    return f"{words}; {peers}"
