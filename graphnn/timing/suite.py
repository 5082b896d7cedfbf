"""Runs contests over cases: sets them up, checks them, and times them in sweeps within a budget.

Several sweeps over all cases distribute the rounds of a case over the whole run. Their spread then
shows how the machine varies from minute to minute.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from graphnn.planner.core.cost import Device, Work, bound, lower_bound
from graphnn.timing.clock import Run, Timer, peak, quiet, summary
from graphnn.timing.contest import BOTH, LONGEST, Contest, standing, time_runs
from graphnn.timing.results import Found, title

OURS = "graphnn"


class TimedCase(Protocol):
    """A case to time, as data."""

    def record(self) -> dict[str, Any]:
        """Network, sizes by letter, and dtype, as JSON data."""
        ...


@dataclass
class Prepared:
    """A case that is set up: its contest, and the least work of each pass.

    `passes` are timed in addition to forward and backward. graphnn is called `settle` times before
    it is timed. With `first` the times of first calls are reported too. `expected` are the cost
    model's seconds for graphnn, by pass.
    """

    contest: Contest
    work: dict[str, Work] = field(default_factory=dict)
    passes: dict[str, dict[str, Run]] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    details: Callable[[], dict[str, Any]] = dict
    settle: int = 0
    first: bool = True


@dataclass(frozen=True)
class SuitePlan:
    """How to time: most rounds per sweep, seconds per pass and sweep, sweeps, seconds in total."""

    rounds: int = 15
    spend: float = 1.0
    sweeps: int = 2
    budget: float = float("inf")


@dataclass
class _Entry:
    """A case that is being timed: the times of each sweep, by pass and contender."""

    prepared: Prepared
    device: str
    sweeps: dict[str, list[dict[str, list[float]]]] = field(default_factory=dict)

    def sweep(self, timer: Timer, plan: SuitePlan) -> None:
        made = self.prepared
        passes = {**made.contest.passes(), **made.passes}
        for what, runs in passes.items():
            if not self.sweeps and OURS in runs:
                for _ in range(made.settle):
                    runs[OURS]()
            if runs:
                found = time_runs(runs, timer, plan.rounds, plan.spend)
                self.sweeps.setdefault(what, []).append(found)


def run(
    cases: Sequence[TimedCase],
    prepare: Callable[[Any], Prepared],
    found: Found,
    limits: Device,
    timer: Timer,
    plan: SuitePlan,
    device: str = "cpu",
    saved: Callable[[Found], None] = lambda found: None,
    now: Callable[[], float] = time.monotonic,
) -> Found:
    """Time every case that the budget allows; add its rows, or `not_reached`, to `found`.

    Results are passed to `saved` after each case, so that an interrupted run keeps them.
    """
    begun, entries = now(), {}
    over = lambda: now() - begun > plan.budget
    with _progress() as progress:
        task = progress.add_task("", total=len(cases) * plan.sweeps)
        for sweep in range(plan.sweeps):
            for number, case in enumerate(cases):
                name = title(case.record())
                progress.update(task, description=f"{name}, sweep {sweep + 1} of {plan.sweeps}")
                if sweep == 0 and over():
                    found["not_reached"].append(name)
                elif sweep == 0:
                    entries[number] = _begin(case, prepare, timer, device, found)
                if (entry := entries.get(number)) and not (sweep and over()):
                    _go_on(entry, timer, plan, found, name)
                    _record(found, case, entry, limits)
                    saved(found)
                if plan.sweeps == 1:
                    entries.pop(number, None)  # the next case needs its memory
                progress.advance(task)
    saved(found)
    return found


def _progress() -> Progress:
    """A progress bar on stderr, so that stdout can go into a pipe."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, transient=True, console=Console(stderr=True))


def _begin(
    case: Any, prepare: Callable[[Any], Prepared], timer: Timer, device: str, found: Found
) -> _Entry | None:
    try:
        made = prepare(case)
        made.contest.check(timer)
    except Exception as problem:  # out of memory in the reference, say: the others still count
        _failed(found, case, problem)
        return None
    return _Entry(made, device)


def _go_on(entry: _Entry, timer: Timer, plan: SuitePlan, found: Found, name: str) -> None:
    try:
        with quiet():
            entry.sweep(timer, plan)
    except Exception as problem:
        entry.prepared.contest.failed["all"] = f"{type(problem).__name__}: {problem}"[:LONGEST]


def _failed(found: Found, case: TimedCase, problem: Exception) -> None:
    why = f"{type(problem).__name__}: {problem}"[:LONGEST]
    found["rows"].append(_row(case.record(), "setting up", {"all": why}))


def _row(case: dict[str, Any], what: str, failed: dict[str, str]) -> dict[str, Any]:
    return {"case": case, "pass": what, "contenders": {}, "absent": {}, "failed": failed}


def _record(found: Found, case: TimedCase, entry: _Entry, limits: Device) -> None:
    """Replace the rows of a case by those of all sweeps so far."""
    record, contest = case.record(), entry.prepared.contest
    others = [r for r in found["rows"] if r["case"] != record]
    rows = []
    for what, sweeps in entry.sweeps.items():
        contested = what in contest.passes()  # contenders were checked in these passes only
        row = _row(record, what, contest.failed if contested else {})
        row["absent"] = {**contest.absent, **(contest.forward_only if what == BOTH else {})}
        row["absent"] = row["absent"] if contested else {}
        row["contenders"] = standing(sweeps, lead(found))
        _judge(row, entry, what, limits)
        rows.append(row)
    if contest.first and entry.prepared.first:
        rows.append(_first_calls(record, contest, lead(found)))
    if not rows:
        rows.append({**_row(record, "setting up", contest.failed), "absent": contest.absent})
    rows[0]["errors"] = contest.errors
    rows[0] |= entry.prepared.details()
    place = next((n for n, r in enumerate(found["rows"]) if r["case"] == record), len(others))
    found["rows"] = [*others[:place], *rows, *others[place:]]


def lead(found: Found) -> str:
    """The contender that others are compared with: graphnn, or a user's first contender."""
    return str(found["about"].get("lead", OURS))


def _first_calls(record: dict[str, Any], contest: Contest, ahead: str) -> dict[str, Any]:
    """The time of each contender's first call, forward and backward; once, so without quantiles."""
    row = {**_row(record, "first call", {}), "contenders": {}}
    ours = contest.first.get(ahead)
    for name, seconds in contest.first.items():
        if name not in contest.runs:
            continue  # it failed the check
        row["contenders"][name] = {**summary([seconds]), "rounds": 1, "sweeps": [seconds * 1e3]}
        if ours:
            row["contenders"][name]["ratio"] = seconds / ours
    return row


def _judge(row: dict[str, Any], entry: _Entry, what: str, limits: Device) -> None:
    """Add to a row how far each contender is from the limit, and the expected time of graphnn."""
    work, runs = entry.prepared.work.get(what), entry.prepared.contest.passes().get(what, {})
    dtype = getattr(torch, row["case"]["dtype"], torch.float32)
    if work is not None:
        floor = lower_bound(limits, work, dtype)
        row |= {"flops": work.flops, "bytes": work.bytes, "least_ms": floor * 1e3}
        row["bound"] = bound(limits, work, dtype)
        for standing_ in row["contenders"].values():
            seconds = max(standing_["median"] * 1e-3, 1e-12)
            standing_["bytes_a_second"] = work.bytes / seconds
            standing_["flops_a_second"] = work.flops / seconds
            standing_["of_limit"] = floor / seconds
    if entry.device == "cuda":
        for name, standing_ in row["contenders"].items():
            if name in runs:
                standing_["peak_bytes"] = peak(runs[name])
    if what in entry.prepared.expected and OURS in row["contenders"]:
        row["expected_ms"] = entry.prepared.expected[what] * 1e3


def model_error(found: Found) -> tuple[float, float, str] | None:
    """The error of the cost model, or None if nothing was expected.

    Returns the median and the largest factor between expected and measured times, in either
    direction, and the case of the largest.
    """
    off = []
    for row in found["rows"]:
        ours = row["contenders"].get(OURS)
        if ours and row.get("expected_ms"):
            factor = row["expected_ms"] / ours["median"]
            off.append((max(factor, 1 / factor), f"{title(row['case'])}, {row['pass']}"))
    if not off:
        return None
    return statistics.median(f for f, _ in off), *max(off)
