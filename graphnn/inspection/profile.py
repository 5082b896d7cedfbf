"""Profiles: the time of each part of a program, its share, and its distance from the limit."""

from __future__ import annotations

import contextlib
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from graphnn.backends.torch.program import Program
from graphnn.inspection.expected import of_piece
from graphnn.inspection.marks import Clock, CudaClock, Trail, watched
from graphnn.kernels.ir.symbols import visible
from graphnn.kernels.select.pace import all_at_once
from graphnn.planner.core.cost import Device, Work, bound, lower_bound
from graphnn.planner.core.work import through
from graphnn.timing.clock import quiet
from graphnn.timing.contest import gradients
from graphnn.timing.contest import leaves as tensors_in
from graphnn.timing.table import limits_text, ms, printed

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Row:
    """One part of a call: median and quartiles in ms, and its share of the call.

    `limit` and the cost model's `expected` are in ms too, if they are known. A `kernel` row is
    inside the part above it.
    """

    part: str
    how: str
    direction: str
    low: float
    median: float
    high: float
    share: float
    limit: float | None = None
    bound: str = ""
    expected: float | None = None
    kernel: bool = False


@dataclass(frozen=True)
class Profile:
    """The times of a model's parts. Printed, it is a table; `rows` holds the figures."""

    name: str
    rows: list[Row]
    total: float
    limits: Device
    rounds: int

    def table(self) -> Table:
        """The table."""
        title = f"{self.name}: {ms(self.total)} ms per call, median of {self.rounds} rounds"
        made = Table(title=Text(visible(title)), title_justify="left")
        for column in ("part", "how"):
            made.add_column(column)
        for column in ("ms", "quartiles", "share", "limit ms", "of limit", "expected ms"):
            made.add_column(column, justify="right")
        for row in self.rows:
            made.add_row(*(Text(visible(cell)) for cell in _cells(row)))
        return made

    def __str__(self) -> str:
        return printed(self.table()) + f"limits: {limits_text(self.limits.record())}"

    def record(self) -> dict[str, Any]:
        """The profile as JSON data."""
        rows = [asdict(r) for r in self.rows]
        limits = self.limits.record()
        return {"name": self.name, "total": self.total, "rows": rows, "limits": limits}


def _cells(row: Row) -> list[str]:
    name = f"  {row.part}" if row.kernel else row.part
    if row.direction == BACKWARD:
        name = f"backward of {name}" if not row.kernel else name
    cells = [name, row.how, ms(row.median), f"{ms(row.low)} to {ms(row.high)}"]
    cells += [f"{100 * row.share:.1f}%"]
    if row.limit is None or row.median <= 0:
        cells += ["", ""]
    else:
        cells += [ms(row.limit), f"{100 * row.limit / row.median:.1f}% ({row.bound})"]
    return [*cells, ms(row.expected) if row.expected is not None else ""]


def profile(
    program: Program,
    call: Callable[[], Any],
    sizes: Mapping[str, int],
    leaves: Sequence[torch.Tensor],
    limits: Device,
    rounds: int,
    clock: Clock,
) -> Profile:
    """Time each part of a program while `call` runs it, once per round.

    `sizes` are the lengths of axes in that call. If there are `leaves` to differentiate by, the
    backward of each loop is timed as well.
    """
    with quiet():
        trails = _trails(program, call, leaves, rounds, clock)
    rows, total = _rows(program, trails, sizes, limits, bool(leaves))
    return Profile(program.ir.name, rows, total, limits, rounds)


def clock_for(device: str) -> Clock:
    """The clock of a kind of device."""
    return CudaClock() if device == "cuda" else Clock()


def _trails(
    program: Program,
    call: Callable[[], Any],
    leaves: Sequence[torch.Tensor],
    rounds: int,
    clock: Clock,
) -> list[Trail]:
    """One trail per round, after two calls for warming up."""
    found = []
    for number in range(rounds + 2):
        trail = Trail(clock)
        clock.wait()
        # kernels are tuned before anything is measured
        with watched(program, trail), all_at_once() if number < 2 else contextlib.nullcontext():
            trail.begin = clock.now()
            with torch.set_grad_enabled(bool(leaves)):
                outputs = tensors_in(call())
            trail.turn = clock.now()
            if leaves:
                gradients(functools.partial(list, outputs), leaves)
            trail.end = clock.now()
        clock.wait()
        if number >= 2:
            found.append(trail)
    return found


def _rows(
    program: Program, trails: list[Trail], sizes: Mapping[str, int], limits: Device, backward: bool
) -> tuple[list[Row], float]:
    totals = [t.clock.between(t.begin, t.end) for t in trails]
    total = statistics.median(totals)
    parts = [t.parts() for t in trails]
    fronts = [t.clock.between(t.begin, t.turn) - sum(p) for t, p in zip(trails, parts)]
    fronts = [f + p[0] for f, p in zip(fronts, parts)]
    rows = [_row("call", "checks, arguments, results", FORWARD, fronts)]
    for number, piece in enumerate(program.pieces[1:], 1):
        found = of_piece(program, piece, sizes, limits)
        if piece.cut is None and not found.work.launches:
            continue
        seconds = [p[number] for p in parts]
        of = found.name, found.strategy, FORWARD, seconds, found.work, limits, program.ir.floating
        rows.append(replace(_row(*of), expected=found.seconds * 1e3))
    rows += _kernels(trails, FORWARD)
    if backward:
        rows += _backward(program, trails, sizes, limits)
    # shares of the sum of all parts: on a busy machine the median of whole calls is larger
    together = sum(r.median for r in rows if not r.kernel) or 1.0
    return [replace(r, share=r.median / together) for r in rows], total * 1e3


def _kernels(trails: list[Trail], direction: str) -> list[Row]:
    """A row for every kernel that was launched, forward or backward."""
    spans = [t.spans(t.kernels) for t in trails]
    return [
        _row(name, "kernel", direction, [s.get(name, 0.0) for s in spans], kernel=True)
        for name in dict.fromkeys(n for s in spans for n in s)
        if ("_backward" in name) == (direction == BACKWARD)
    ]


def _backward(
    program: Program,
    trails: list[Trail],
    sizes: Mapping[str, int],
    limits: Device,
) -> list[Row]:
    """A row for the backward of each loop, and one for the rest: autograd over whole axes."""
    spans = [t.spans(t.backwards) for t in trails]
    rows, dtype = [], program.ir.floating
    alternatives = {id(loop) for layer in program.layers for loop in layer.own.loops}
    for loop in program.loops:
        if id(loop) in alternatives and not any(loop.key in s for s in spans):
            continue  # torch's own layer ran instead
        seconds = [s.get(loop.key, 0.0) for s in spans]
        ir = loop.derived.ir
        work = through(ir, [i for i in ir.nodes if ir[i].op != "given"], sizes)
        title = f"loop {loop.loop.name.replace('_', ', ')}"
        choices = loop.choices()
        how = choices[1].strategy if len(choices) > 1 else "stepwise"
        rows.append(_row(title, how, BACKWARD, seconds, work, limits, dtype))
    rows += _kernels(trails, BACKWARD)
    rest = [t.clock.between(t.turn, t.end) - sum(s.values()) for t, s in zip(trails, spans)]
    return [*rows, _row("whole axes", "autograd", BACKWARD, rest)]


def _row(
    part: str,
    how: str,
    direction: str,
    seconds: list[float],
    work: Work | None = None,
    limits: Device | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    kernel: bool = False,
) -> Row:
    together = seconds if len(seconds) > 1 else seconds * 2
    low, middle, high = statistics.quantiles(together, n=4, method="inclusive")
    limit = (
        lower_bound(limits, work, dtype) * 1e3 if limits is not None and work is not None else None
    )
    kind = bound(limits, work, dtype) if limits is not None and work is not None else ""
    return Row(
        part, how, direction, low * 1e3, middle * 1e3, high * 1e3, 0.0, limit, kind, None, kernel
    )
