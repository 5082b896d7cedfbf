"""`model.profile(**inputs)`: of each part its time, its share, how far it is from the limit."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from graphnn.backends.torch.program import Program
from graphnn.errors import TimingError
from graphnn.inspection.expected import of_piece
from graphnn.inspection.marks import Clock, CudaClock, Trail, watched
from graphnn.kernels.ir.symbols import visible
from graphnn.planner.core.cost import Device, Work, bound, lower_bound
from graphnn.planner.core.work import through
from graphnn.planner.loops.choose import Target
from graphnn.planner.pipeline import Variant
from graphnn.runtime.call import read
from graphnn.runtime.model import Compiled
from graphnn.timing.clock import quiet
from graphnn.timing.contest import gradients, leaves
from graphnn.timing.table import in_words, ms, printed
from graphnn.tools import device_limits

FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class Row:
    """One part: median and quartiles in ms, its share of the call, the limit and the cost model's
    expectation where they are known. `kernel` rows are inside the part above them."""

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
    """Where a model's time goes. Printed, it is a table; `rows` are the figures."""

    name: str
    rows: list[Row]
    total: float
    limits: Device
    rounds: int

    def table(self) -> Table:
        """The table."""
        title = f"{self.name}: {ms(self.total)} ms a call, {self.rounds} rounds, median"
        made = Table(title=Text(visible(title)), title_justify="left")
        for column in ("part", "how"):
            made.add_column(column)
        for column in ("ms", "quartiles", "share", "limit ms", "of limit", "expected ms"):
            made.add_column(column, justify="right")
        for row in self.rows:
            made.add_row(*(Text(visible(cell)) for cell in _cells(row)))
        return made

    def __str__(self) -> str:
        return printed(self.table()) + f"limits: {in_words(self.limits.record())}"

    def record(self) -> dict[str, Any]:
        """As JSON has it."""
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
    model: Compiled,
    inputs: Mapping[str, torch.Tensor],
    lengths: Mapping[str, Any] | None = None,
    backward: bool | None = None,
    rounds: int = 15,
    limits: Device | None = None,
    clock: Clock | None = None,
) -> Profile:
    """Time each part of a model on these inputs.

    With `backward` (default: where a parameter or input wants a gradient) the backward of each loop
    is timed too, by gradients of one for each output. `limits` are the device's; measured, once a
    process, unless given. Raises TimingError for the reference backend, which has no parts.
    """
    if model.backend == "reference":
        raise TimingError(
            "the reference backend has no parts to time",
            got="backend 'reference', which evaluates the definition position by position",
            wanted="a model of another backend",
            fix="gn.compile(net) takes the fastest there is",
        )
    if rounds < 1:
        raise TimingError("a profile takes one round or more", got=f"rounds = {rounds}")
    call = read.read(model.ir, inputs, lengths, None, model._device())
    wanted = [*model.parameters(), *inputs.values()]
    wanted = [t for t in wanted if isinstance(t, torch.Tensor) and t.requires_grad]
    backward = bool(wanted) if backward is None else backward
    target = Target(call.device.type)
    program = model._program(Variant(frozenset(call.lengths), target=target))
    limits = limits or measured(call.device.type, model.ir.floating)
    with quiet():
        trails = _trails(model, program, inputs, lengths, wanted if backward else [], rounds, clock)
    rows, total = _rows(program, trails, call.sizes, limits, backward)
    return Profile(model.ir.name, rows, total, limits, rounds)


@functools.cache
def measured(kind: str, dtype: torch.dtype) -> Device:
    """This device's limits, measured once a process."""
    return device_limits.measure(kind, (dtype,))


def _trails(
    model: Compiled,
    program: Program,
    inputs: Mapping[str, torch.Tensor],
    lengths: Mapping[str, Any] | None,
    wanted: list[torch.Tensor],
    rounds: int,
    clock: Clock | None,
) -> list[Trail]:
    """A trail a round, after two calls to warm up."""
    found = []
    for number in range(rounds + 2):
        kind = next(iter(inputs.values())).device.type if inputs else "cpu"
        trail = Trail(clock or (CudaClock() if kind == "cuda" else Clock()))
        trail.clock.wait()
        with watched(program, trail):
            trail.begin = trail.clock.now()
            with torch.set_grad_enabled(bool(wanted)):
                outputs = leaves(model(**inputs, lengths=lengths))
            trail.turn = trail.clock.now()
            if wanted:
                gradients(functools.partial(list, outputs), wanted)
            trail.end = trail.clock.now()
        trail.clock.wait()
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
        of = found.name, found.regime, FORWARD, seconds, found.work, limits, program.ir.floating
        rows.append(replace(_row(*of), expected=found.seconds * 1e3))
    rows += _kernels(trails, FORWARD)
    if backward:
        rows += _backward(program, trails, sizes, limits)
    # shares of what the parts take together: on a busy machine a whole call's median is larger
    together = sum(r.median for r in rows if not r.kernel) or 1.0
    return [replace(r, share=r.median / together) for r in rows], total * 1e3


def _kernels(trails: list[Trail], way: str) -> list[Row]:
    """Every kernel that was launched, forward or backward."""
    spans = [t.spans(t.kernels) for t in trails]
    return [
        _row(name, "kernel", way, [s.get(name, 0.0) for s in spans], kernel=True)
        for name in dict.fromkeys(n for s in spans for n in s)
        if ("_backward" in name) == (way == BACKWARD)
    ]


def _backward(
    program: Program,
    trails: list[Trail],
    sizes: Mapping[str, int],
    limits: Device,
) -> list[Row]:
    """The backward of each loop, and what is left: autograd over whole axes."""
    spans = [t.spans(t.backwards) for t in trails]
    rows, dtype = [], program.ir.floating
    rivals = {id(loop) for layer in program.layers for loop in layer.own.loops}
    for loop in program.loops:
        if id(loop) in rivals and not any(loop.key in s for s in spans):
            continue  # torch's own layer was run instead
        seconds = [s.get(loop.key, 0.0) for s in spans]
        ir = loop.derived.ir
        work = through(ir, [i for i in ir.nodes if ir[i].op != "given"], sizes)
        title = f"loop {loop.loop.name.replace('_', ', ')}"
        choices = loop.choices()
        how = choices[1].regime if len(choices) > 1 else "stepwise"
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
