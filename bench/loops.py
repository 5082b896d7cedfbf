"""Loops on a GPU, beside cuDNN, the eager loop and torch.compile: `python -m bench.loops --gpu`.

Each contender's results and gradients are held against the eager loop in float64 before it is
timed; a wrong one is reported and not timed. Rounds are interleaved, medians have quartiles beside
them, and the L2 cache is overwritten before each run. `--backend interpret --tiny` runs the same
program on a CPU, whose times say nothing. None of it has been run on a GPU yet.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

import graphnn as gn
from bench import measure
from bench.cases import COMPILED_STEPS, EVERY, GPU, QUICK, TINY, Case
from bench.measure import Run, error, results, rounds, summary, without_gradients
from bench.networks import Layer
from bench.report import show
from bench.variants import ALL, loop
from graphnn.backends.triton.graphs import CHECKED, SEEN, Replayed

# the error that a right result may have, or twice that of the eager loop of the same dtype
ALLOWED = {"float32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
# seconds to spend on the rounds of one case, forward or forward with backward
SPEND = 3.0
# calls after which a stepwise loop is replayed as a CUDA graph and no longer checked
SETTLED = SEEN + CHECKED
ABSENT = {"FlashRNN": "not installed", "haste": "not installed"}
EAGER, COMPILE = "eager loop", "torch.compile"


class Contest:
    """One case: who runs it, on the same weights and the same input; and what is right."""

    def __init__(self, case: Case, backend: str, device: str):
        torch.manual_seed(0)
        self.case, self.device, dtype = case, device, getattr(torch, case.dtype)
        self.net = ALL[case.network](case.width).to(device, dtype)
        self.model = gn.compile(self.net, backend=backend)
        shape = case.steps, case.batch, case.width * getattr(self.net, "inputs", 1)
        self.x = torch.randn(shape, device=device).to(dtype).requires_grad_()
        self.weight = torch.randn(*shape[:2], case.width, device=device).to(dtype)
        self.wanted = [self.x, *self.net.parameters()]
        self.absent: dict[str, str] = dict(ABSENT)
        self.failed: dict[str, str] = {}
        self.errors: dict[str, float] = {}
        self.runs = self._runs()

    def _runs(self) -> dict[str, Run]:
        """The contenders, all from the input with time first, the layout that each likes best."""
        x, eager = self.x, loop(self.net)
        runs: dict[str, Run] = {"graphnn": lambda: self.model(x=x.transpose(0, 1)).transpose(0, 1)}
        if isinstance(self.net, Layer):
            self.net.layer.flatten_parameters()
            theirs = self.net.peer()
            runs[f"nn.{self.case.network}"] = lambda: theirs(x)
        runs[EAGER] = lambda: eager(x)
        if self.case.compiled and self.device == "cuda":
            compiled = torch.compile(eager, dynamic=False)
            runs[COMPILE] = lambda: compiled(x)
        elif self.device == "cuda":
            self.absent[COMPILE] = f"takes minutes to compile; timed at {COMPILED_STEPS} steps only"
        else:
            self.absent[COMPILE] = "timed on a GPU only"
        return runs

    def check(self) -> None:
        """Drop the contenders that fail or compute something else, and say so."""
        exact = copy.deepcopy(self.net).double()
        x = self.x.detach().double().requires_grad_()
        eager = loop(exact)
        right = results(lambda: eager(x), self.weight.double(), [x, *exact.parameters()])
        for name in sorted(self.runs, key=lambda n: n != EAGER):
            try:
                poison(self.device)
                found = results(self.runs[name], self.weight, self.wanted)
                self.errors[name] = error(found, right)
            except Exception as problem:  # one contender's failure is a result
                self.failed[name] = f"{type(problem).__name__}: {problem}"[:500]
                continue
            limit = max(ALLOWED[self.case.dtype], 2 * self.errors.get(EAGER, 0.0))
            if not self.errors[name] <= limit:
                self.failed[name] = f"wrong by {self.errors[name]:.1e}, {limit:.1e} allowed"
        self.runs = {k: v for k, v in self.runs.items() if k not in self.failed}

    def passes(self) -> dict[str, dict[str, Run]]:
        """Forward as in inference, and forward with backward."""

        def forward(run: Run) -> Run:
            return lambda: without_gradients(run)

        def both(run: Run) -> Run:
            return lambda: torch.autograd.grad(run(), self.wanted, self.weight)

        return {
            "forward": {k: forward(r) for k, r in self.runs.items()},
            "both": {k: both(r) for k, r in self.runs.items()},
        }

    def least(self) -> dict[str, dict[str, int]]:
        """The fewest bytes to move, each tensor once a pass, and operations of the products."""
        parameters = list(self.net.parameters())
        weights = sum(p.numel() for p in parameters)
        there = (self.x.numel() + self.weight.numel() + weights) * self.x.element_size()
        back = there + (self.x.numel() + weights) * self.x.element_size()
        rows = 2 * self.case.steps * self.case.batch
        work = rows * sum(p.numel() for p in parameters if p.dim() == 2)
        return {
            "forward": {"bytes": there, "flops": work},
            "both": {"bytes": there + back, "flops": 3 * work},
        }


def poison(device: str) -> None:
    """Leave NaN in the memory that is handed out next: what is not written is then seen."""
    if device == "cuda":
        torch.full((1 << 26,), float("nan"), device=device)


def regimes(model: gn.Compiled) -> dict[str, dict[str, str]]:
    """How each generated function of a model's loops is run, and why."""
    found = {
        d.loop: {"regime": d.regime, "why": d.reason}
        for d in model.plan.decisions
        if d.regime in ("scan", "aten")
    }
    for program in model._programs.values():
        for part in program.loops:
            choices = getattr(part.lowering, "choices", {})
            found |= {k: {"regime": c.regime, "why": c.reason} for k, c in choices.items()}
    return found


def launches(model: gn.Compiled) -> dict[str, list[dict[str, Any]]]:
    """The launches that were chosen for each kernel of a model, compiled ones only."""
    lowerings = [part.lowering for p in model._programs.values() for part in p.loops]
    kernels = [item for x in lowerings if x is not None for item in x.launchers.items()]
    return {name: [vars(c) for c in k.tuner.chosen.values()] for name, k in kernels}


def replays(model: gn.Compiled) -> dict[str, dict[str, Any]]:
    """Of each stepwise function the CUDA graphs recorded, or why there are none."""
    parts = [part for p in model._programs.values() for part in p.loops]
    functions = [f for x in parts for f in (x.train, x.infer, *x._backwards.values())]
    found = {f.name: f.call for f in functions if isinstance(f.call, Replayed)}
    return {name: {"recorded": len(f.graphs), "off": f.off} for name, f in found.items()}


def peak(run: Run) -> float:
    """Bytes allocated at once by a run, beside what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def timings(
    contest: Contest, runs: dict[str, Run], least: dict[str, int], timer: measure.Timer, most: int
) -> dict[str, Any]:
    """One pass of a case, timed: each contender's summary, and what follows from it."""
    for _ in range(SETTLED):
        runs.get("graphnn", int)()
    pilot = rounds(runs, 1, timer, warm=1)
    count = max(3, min(most, int(SPEND / sum(s[0] for s in pilot.values()))))
    found = rounds(runs, count, timer, warm=1)
    row: dict[str, Any] = {"rounds": count, **least}
    for name, seconds in found.items():
        row[name] = summary(seconds)
        middle = row[name]["median"] * 1e-3
        row[name]["us_a_step"] = middle / contest.case.steps * 1e6
        row[name]["bytes_a_second"] = least["bytes"] / middle
        if "graphnn" in found:
            ratios = [p / g for p, g in zip(seconds, found["graphnn"])]
            row[name]["over_graphnn"] = statistics.median(ratios)
        if contest.device == "cuda":
            row[name]["peak_bytes"] = peak(runs[name])
    return row


def contest(case: Case, backend: str, device: str, timer: measure.Timer, most: int) -> Any:
    """Check and time one case; a case that cannot be set up is a row that says why."""
    row: dict[str, Any] = {"case": vars(case), "failed": {}}
    try:
        made = Contest(case, backend, device)
        made.check()
        row |= {"errors": made.errors, "failed": made.failed, "absent": made.absent}
        row |= {"regimes": regimes(made.model), "launches": launches(made.model)}
        least = made.least()
        for what, runs in made.passes().items():
            row[what] = timings(made, runs, least[what], timer, most) if runs else {}
        row["graphs"] = replays(made.model)
    except Exception as problem:  # out of memory in the reference, say: the others still count
        row["failed"]["all"] = f"{type(problem).__name__}: {problem}"[:500]
    return row


def chosen(args: argparse.Namespace) -> list[Case]:
    """The cases that the command line asks for."""
    cases = TINY if args.tiny else QUICK if args.quick else GPU if args.gpu else EVERY
    known = {c.network for c in cases}
    if unknown := set(args.only or ()) - known:
        raise SystemExit(f"no case of {sorted(unknown)}; there are {sorted(known)}")
    return [c for c in cases if not args.only or c.network in args.only]


def parsed(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    which.add_argument("--quick", action="store_true", help="the main cases, two minutes")
    which.add_argument("--gpu", action="store_true", help="each size on its own, ten minutes")
    parser.add_argument("--only", action="append", metavar="NAME", help="cases of this network")
    parser.add_argument("--backend", choices=["triton", "interpret", "torch"], default="triton")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--budget", type=float, help="seconds after which no case is begun")
    parser.add_argument("--save", metavar="NAME", help="write bench/results/NAME.json")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    """Check, time, show, and write the JSON after each case where asked."""
    args = parsed(given)
    device = "cuda" if args.backend == "triton" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU: --backend interpret --tiny runs the same program on the CPU")
    cases = chosen(args)
    budget = args.budget or (120 if args.quick else 570 if args.gpu else float("inf"))
    found: dict[str, Any] = {"about": about(device), "rows": [], "not_reached": []}
    timer = measure.Events() if device == "cuda" else measure.clocked
    begun = time.monotonic()
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("timing", total=len(cases))
        for case in cases:
            progress.update(task, description=str(case))
            if time.monotonic() - begun > budget:
                found["not_reached"].append(str(case))
                continue
            found["rows"].append(contest(case, args.backend, device, timer, args.rounds))
            save(found, args.save)
            progress.advance(task)
    save(found, args.save)
    show(found)
    return found


def about(device: str) -> dict[str, Any]:
    """Where the figures come from; on a GPU float32 products are everyone's in TF32."""
    found = measure.environment(device, "as each case says")
    if device == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        found |= {"float32": "TF32 products, all contenders", "l2": "overwritten before each run"}
    return found


def save(found: dict[str, Any], name: str | None) -> None:
    """Write what there is so far: a run that is cut short has its results."""
    if name:
        measure.RESULTS.mkdir(exist_ok=True)
        (measure.RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
