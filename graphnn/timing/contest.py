"""Contests: several implementations of one function, checked against a reference, then timed.

A contender that fails, or whose results or gradients are wrong, is reported and not timed.
"""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphnn.timing.clock import Run, Timer, rounds, summary, without_gradients

# largest relative error of a correct result; or twice the baseline's error in the same dtype
ALLOWED = {"float64": 1e-9, "float32": 5e-3, "float16": 1e-2, "bfloat16": 5e-2}
FORWARD, BOTH = "forward", "forward and backward"
LONGEST = 300  # characters of a reason


@dataclass
class Contest:
    """Contenders by name, each a function without arguments that returns tensors of equal values.

    `wanted` are the leaves whose gradients are checked, and computed when the backward is timed.
    `extra_leaves` belong to single contenders; their gradients are computed but not compared.
    `right()` returns the correct results and gradients of `wanted`; without it those of the first
    contender are correct. The error of the `baseline` (the eager loop, say) is the precision of the
    dtype. Contenders in `slow` must compile, and have `patience` seconds for it. `before` is called
    before each check. `absent` are missing contenders, and `forward_only` those whose backward is
    not timed, each with the reason.
    """

    name: str
    runs: dict[str, Run]
    wanted: Sequence[Tensor] = ()
    extra_leaves: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    right: Callable[[], list[Tensor]] | None = None
    baseline: str | None = None
    dtype: str = "float32"
    slow: frozenset[str] = frozenset()
    patience: float = 60.0
    before: Callable[[], None] = lambda: None
    absent: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    forward_only: dict[str, str] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)

    def check(self, timer: Timer) -> None:
        """Drop the contenders that fail or whose results are wrong, and record the reasons.

        The seconds of each first call, forward and backward, are stored in `first`.
        """
        right = self.right() if self.right is not None else None
        lead = self.baseline or next(iter(self.runs), None)
        for name in sorted(self.runs, key=lambda n: n != lead):
            try:
                self.before()
                found = self._first(name, timer)
                right = found if right is None else right
                # without gradients only results are compared
                both = min(len(found), len(right)) if {name, lead} & {*self.forward_only} else None
                self.errors[name] = error(found[:both], right[:both])
            except Patience:
                self.absent[name] = f"not compiled within {self.patience:.3g} s"
                continue
            except Exception as problem:  # a failure is a result of the contest
                self.failed[name] = f"{type(problem).__name__}: {problem}"[:LONGEST]
                continue
            limit = self._limit(name, lead)
            if not self.errors[name] <= limit:
                self.failed[name] = f"wrong by {self.errors[name]:.1e}, {limit:.1e} allowed"
        gone = {*self.failed, *self.absent}
        self.runs = {k: v for k, v in self.runs.items() if k not in gone}

    def _limit(self, name: str, lead: str | None) -> float:
        """The largest error that a contender may have. A wrong baseline is disregarded."""
        allowed = ALLOWED.get(self.dtype, 5e-2)
        if name == lead or lead in self.failed:
            return allowed
        return max(allowed, 2 * self.errors.get(lead or "", 0.0))

    def _first(self, name: str, timer: Timer) -> list[Tensor]:
        """The results of a contender's first call, in which it compiles forward and backward."""
        kept: list[list[Tensor]] = []
        run = self.runs[name]

        def call() -> None:
            if name in self.slow:
                without_gradients(run)
            kept.append(self._results(name, run))

        with patience(self.patience) if name in self.slow else contextlib.nullcontext():
            self.first[name] = timer(call)
        return kept[0]

    def _results(self, name: str, run: Run) -> list[Tensor]:
        """The results and gradients to compare; a contender's own leaves must have gradients."""
        own = list(self.extra_leaves.get(name, ()))
        found, flows = computed(run, [*self.wanted, *own])
        if flows is None and (self.wanted or own):
            self.forward_only[name] = "its results depend on nothing that requires a gradient"
        return found + (flows or [])[: len(self.wanted)]

    def passes(self) -> dict[str, dict[str, Run]]:
        """The passes to time: forward as in inference; with leaves, also forward and backward."""

        def forward(run: Run) -> Run:
            return lambda: without_gradients(run)

        def both(name: str, run: Run) -> Run:
            wanted = [*self.wanted, *self.extra_leaves.get(name, ())]
            return lambda: gradients(run, wanted)

        found = {FORWARD: {k: forward(r) for k, r in self.runs.items()}}
        if self.wanted or self.extra_leaves:
            found[BOTH] = {
                k: both(k, r) for k, r in self.runs.items() if k not in self.forward_only
            }
        return found


class Patience(BaseException):
    """The time is over. It is no Exception, so that interrupted code does not catch it."""


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raise Patience if the block takes longer. Only in the main thread can it be interrupted."""
    able = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not able or not math.isfinite(seconds):
        yield
        return

    def ring(*_: Any) -> None:
        raise Patience

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def leaves(value: Any) -> list[Tensor]:
    """The tensors in a returned value, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in leaves(v)]
    return []


def cotangents(outputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients for outputs: the same for all contenders, neither constant nor random."""
    made = []
    for y in outputs:
        wave = torch.arange(y.numel(), device=y.device, dtype=torch.float64) * 0.7
        made.append(torch.cos(wave).reshape(y.shape).to(y.dtype))
    return made


_FLOWS: dict[Any, Tensor] = {}


def gradients(run: Run, wanted: Sequence[Tensor]) -> list[Tensor]:
    """Run forward, then backward to `wanted`; None gradients are left out."""
    outputs = [y for y in leaves(run()) if y.requires_grad]
    flows = [_flow(y) for y in outputs]
    found = torch.autograd.grad(outputs, list(wanted), flows, allow_unused=True)
    return [g for g in found if g is not None]


def _flow(y: Tensor) -> Tensor:
    """`cotangents` of one output, made once per shape, dtype and device, so as not to time it."""
    key = tuple(y.shape), y.dtype, y.device
    if key not in _FLOWS:
        if len(_FLOWS) >= 8:
            _FLOWS.pop(next(iter(_FLOWS)))
        _FLOWS[key] = cotangents([y])[0]
    return _FLOWS[key]


def results(run: Run, wanted: Sequence[Tensor]) -> list[Tensor]:
    """The results of a run, and the gradients of `wanted`, zero if they are unused."""
    found, flows = computed(run, wanted)
    return found + ([torch.zeros_like(w) for w in wanted] if flows is None else flows)


def computed(run: Run, wanted: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor] | None]:
    """The results of a run, and the gradients of `wanted`; None if no result requires one."""
    outputs = leaves(run())
    found = [y.detach().clone() for y in outputs]
    flowing = [y for y in outputs if y.requires_grad]
    if not wanted or not flowing:
        return found, None
    given = torch.autograd.grad(flowing, list(wanted), cotangents(flowing), allow_unused=True)
    return found, [torch.zeros_like(w) if g is None else g for g, w in zip(given, wanted)]


def error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest |found - wanted| / |wanted| of all results, in Euclidean norm; NaN if one is NaN.

    Raises ValueError if the number of results or their shapes differ.
    """
    if [tuple(x.shape) for x in found] != [tuple(x.shape) for x in wanted]:
        shapes = [[tuple(x.shape) for x in xs] for xs in (found, wanted)]
        raise ValueError(f"results of shapes {shapes[0]}, wanted {shapes[1]}")
    parts = []
    for a, b in zip(found, wanted, strict=True):
        a, b = a.detach().double(), b.detach().double()
        parts.append(((a - b).norm() / b.norm().clamp(min=1e-30)).item())
    return max(parts, default=0.0) if all(p == p for p in parts) else float("nan")


def time_runs(
    runs: Mapping[str, Run], timer: Timer, most: int, spend: float, warm: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run over interleaved rounds: as many as `spend` seconds allow, 3 to `most`.

    Before them come `warm` rounds, and one that measures the length of a round.
    """
    pilot = rounds(runs, 1, timer, warm=warm)
    count = max(3, min(most, int(spend / max(1e-9, sum(s[0] for s in pilot.values())))))
    return rounds(runs, count, timer, warm=0)


def standing(sweeps: Sequence[Mapping[str, Sequence[float]]], lead: str) -> dict[str, Any]:
    """The summary of each contender over all sweeps.

    It has the best, median and quartiles in ms, the best of each sweep, the number of rounds that
    the system did not interrupt, and the median of the rounds' ratios to `lead`.
    """
    found: dict[str, Any] = {}
    for name in sweeps[0]:
        together = [s for sweep in sweeps for s in sweep[name]]
        found[name] = {**summary(together), "rounds": len(together)}
        found[name]["clean"] = sum(not getattr(s, "interrupted", False) for s in together)
        found[name]["sweeps"] = [min(s[name]) * 1e3 for s in sweeps]
        if lead in sweeps[0]:
            pairs = [p for s in sweeps for p in zip(s[name], s[lead])]
            found[name]["ratio"] = statistics.median(a / b if b else math.nan for a, b in pairs)
    return found
