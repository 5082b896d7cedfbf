"""The tables of a verification as text."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphnn.tools.verification.errors import TensorError
from graphnn.tools.verification.rows import LaunchRow, ResultRow

if TYPE_CHECKING:
    from graphnn.tools.verification.verification import Verification

WIDTH = 100
LAUNCHES = (
    *("kernel", "rows", "warps", "blocks", "error", "allowed"),
    *("regs", "spill", "kB", "PTX", "s", ""),
)
RESULTS = ("result", "error", "torch", "allowed", "")


def text(found: Verification) -> str:
    """Return the tables of launches and results, then the faults."""
    lines = [f"{found.name}, {found.dtype}, {_executed(found.executor)}"]
    lines += [render(launch_table(found.launches)), render(result_table(found.results))]
    faults = list(found.all_faults())
    lines += [str(x) for x in faults]
    lines.append(summary(found))
    return "\n".join(lines)


def summary(found: Verification) -> str:
    """Return one line: the number of launches, of results, and of faults."""
    faults, races = len(list(found.all_faults())), sum(x.races for x in found.launches)
    runs = sum(x.runs for x in found.launches)
    kernels = len({x.kernel for x in found.launches})
    parts = [
        _count(kernels, "kernel"),
        f"{_count(runs, 'launch', 'launches')} in {len(found.launches)} configurations",
        _count(len(found.results), "result"),
        _count(races, "race"),
        _count(faults, "fault") if faults else "no fault",
    ]
    return ", ".join(parts)


def _executed(executor: str) -> str:
    kind, _, target = executor.partition(":")
    return f"PTX for {target}, executed on the CPU" if kind == "ptx" else f"run by {executor}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def launch_table(rows: list[LaunchRow]) -> Table:
    """Return the table of launches."""
    table = _table(LAUNCHES)
    for row in rows:
        r = row.resources
        resources = (str(r.registers), str(r.spills), f"{r.shared / 1024:.0f}") if r else ("",) * 3
        errors = f"{row.worst.error:.0e}", f"{row.worst.allowed:.0e}"
        work = f"{row.statements:,}" if row.statements else "", f"{row.seconds:.1f}"
        launch = row.tile, str(row.warps or ""), row.blocks
        cells = (row.kernel, *launch, *errors, *resources, *work, _verdict(row, row.worst))
        table.add_row(*map(Text, cells), style="red" if row.faults else None)
    return table


def result_table(rows: list[ResultRow]) -> Table:
    """Return the table of results."""
    table = _table(RESULTS)
    for row in rows:
        e = row.error
        errors = (f"{x:.0e}" for x in (e.error, e.baseline, e.allowed))
        cells = (e.name + row.call, *errors, _verdict(row, e))
        table.add_row(*map(Text, cells), style="red" if row.faults else None)
    return table


def _verdict(row: LaunchRow | ResultRow, worst: TensorError) -> str:
    if row.faults:
        return "race" if getattr(row, "races", 0) else "fault"
    return "noise" if worst.noise else "right"


def _table(columns: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        number = name not in ("kernel", "result", "")
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    return table


def render(table: Table) -> str:
    """Return a table as text of at most 100 columns."""
    page = io.StringIO()
    Console(file=page, width=WIDTH, force_terminal=False, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in page.getvalue().splitlines())
