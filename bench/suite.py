"""Runs a suite of cases: limits of the device, every case, results."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from graphnn.bench.cases import NETWORKS, SUITES, Case, Suite
from graphnn.bench.prepare import prepare
from graphnn.errors import TimingError
from graphnn.planner.core.cost import Device
from graphnn.runtime.limits import measure
from graphnn.timing import results
from graphnn.timing.clock import Timer, timer_for
from graphnn.timing.contest import Contest
from graphnn.timing.provenance import about
from graphnn.timing.suite import SuitePlan, run


def select(name: str, only: Sequence[str] = ()) -> Suite:
    """A suite, reduced to some networks. Raises TimingError if it lacks one of them."""
    suite = SUITES[name]
    known = list(dict.fromkeys(c.network for c in suite.cases))
    if unknown := [n for n in only if n not in known]:
        elsewhere = [n for n in unknown if n in NETWORKS]
        raise TimingError(
            f"suite '{name}' has no case of {', '.join(map(repr, unknown))}",
            wanted=f"networks among {', '.join(known)}",
            fix=f"{elsewhere[0]!r} is in the suite 'every' or 'cpu'" if elsewhere else None,
        )
    return replace(suite, cases=tuple(c for c in suite.cases if not only or c.network in only))


def run_suite(
    suite: Suite,
    backend: str = "auto",
    save: str | None = None,
    timer: Timer | None = None,
    limits: Device | None = None,
    **changes: Any,
) -> results.Found:
    """Check and time the cases of a suite within its budget.

    If `save` is given, the results are written to that file after each case. `limits` are those of
    the device; they are measured unless given. `changes` replace fields of the suite: rounds,
    sweeps, spend, budget, patience. Raises TimingError if the backend needs a GPU and there is
    none.
    """
    suite = replace(suite, **{k: v for k, v in changes.items() if v is not None})
    device = device_for(backend)
    if save is not None:
        writable(save)
    found = results.empty(environment(device), None)
    found["about"]["backend"] = backend
    clock = timer or timer_for(device)
    dtypes = [getattr(torch, d) for d in dict.fromkeys(c.dtype for c in suite.cases)]
    limits = limits or measure(device, dtypes, timer)
    found["limits"] = limits.record()

    contests: list[Contest] = []

    def ready(case: Case) -> Any:
        left = suite.compiling - sum(map(compiling, contests))
        made = prepare(case, backend, device, limits, min(suite.patience, max(1.0, left)))
        contests.append(made.contest)
        return made

    def saved(now: results.Found) -> None:
        if save is not None:
            results.save(now, save)

    how = SuitePlan(suite.rounds, suite.spend, suite.sweeps, suite.budget)
    return run(suite.cases, ready, found, limits, clock, how, device, saved)


def compiling(contest: Contest) -> float:
    """Seconds spent on compiling contenders."""
    return sum(
        contest.first.get(name, contest.patience if name in contest.absent else 0.0)
        for name in contest.slow
    )


def device_for(backend: str) -> str:
    """The type of device that a backend runs on: cpu or cuda."""
    there = torch.cuda.is_available()
    if backend == "triton" and not there:
        raise TimingError(
            "there is no GPU to time on",
            got="torch.cuda.is_available() is False",
            wanted="a CUDA device",
            fix="`graphnn bench --quick` times the CPU; `--suite tiny --backend interpret` runs "
            "the GPU's kernels on it, slowly",
        )
    return "cuda" if there and backend in ("auto", "triton") else "cpu"


def writable(path: str) -> None:
    """Raise TimingError before timing begins if the results could not be written."""
    folder = pathlib.Path(path).absolute().parent
    if not folder.is_dir():
        raise TimingError(
            "results cannot be written",
            got=f"'{path}': there is no folder '{folder}'",
            wanted="a file in a folder that exists",
        )


def environment(device: str) -> dict[str, Any]:
    """The provenance of the figures. On a GPU all contenders multiply float32 as TF32."""
    found = about(device, "as each case says")
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        found |= {"float32": "TF32 matmuls, all contenders", "l2": "overwritten before each run"}
    return found
