"""The table of `bench.loops`, from its JSON: `python -m bench.report bench/results/NAME.json`."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

PASSES = {"forward": "forward", "both": "and backward"}


def show(found: dict[str, Any], console: Console | None = None) -> None:
    """A line for each case and pass; below, who was absent, failed or not reached, and why."""
    console = console or Console(width=170)
    about = found["about"]
    title = f"{about['device']}, torch {about['torch']}, Triton {about['triton']}, {about['date']}"
    table = Table(title=f"{title}: median ms; of peers, times graphnn's")
    for column in ("case", "pass", "regime"):
        table.add_column(column)
    for column in ("graphnn", "us a step", "GB/s", "MB", "torch's layer", "eager", "compiled"):
        table.add_column(column, justify="right")
    for row in found["rows"]:
        for what, label in PASSES.items():
            table.add_row(_named(row["case"]), label, *_cells(row, what))
    console.print(table)
    for note in notes(found):
        console.print(note)


def _named(case: dict[str, Any]) -> str:
    sizes = f"T{case['steps']} B{case['batch']} H{case['width']}"
    return f"{case['network']} {sizes} {case['dtype']}"


def _cells(row: dict[str, Any], what: str) -> list[str]:
    """A pass in figures; "-" where there is none."""
    found = row.get(what, {})
    ours = found.get("graphnn")
    peers = [f"nn.{row['case']['network']}", "eager loop", "torch.compile"]
    cells = [_regime(row, what), *["-"] * 4]
    if ours:
        cells[1:4] = [f"{ours['median']:.3f}", f"{ours['us_a_step']:.2f}"]
        cells.insert(3, f"{ours['bytes_a_second'] / 1e9:.1f}")
        if "peak_bytes" in ours:
            cells[4] = f"{ours['peak_bytes'] / 1e6:.0f}"
    for peer in peers:
        failed = peer in row.get("failed", {})
        known = found.get(peer)
        if known and "over_graphnn" in known:
            cells.append(f"{known['over_graphnn']:.2f}x")
        else:
            cells.append(f"{known['median']:.3f}" if known else "failed" if failed else "-")
    return cells


def _regime(row: dict[str, Any], what: str) -> str:
    """Of the forward as in inference; of forward and backward where there are both."""
    kinds = row.get("regimes", {})
    last = [k for k in kinds if k.endswith("_backward")]
    saving = [k for k in kinds if k.endswith("_saving")]
    wanted = [k for k in kinds if k not in (*last, *saving)] if what == "forward" else saving + last
    names = [kinds[k]["regime"] for k in wanted] or [x["regime"] for x in kinds.values()]
    return ", ".join(dict.fromkeys(names)) or "-"


def notes(found: dict[str, Any]) -> list[str]:
    """Each reason once, with the cases that it holds for."""
    reasons: dict[str, list[str]] = {}
    for row in found["rows"]:
        case = _named(row["case"])
        for kind in ("absent", "failed"):
            for name, why in row.get(kind, {}).items():
                reasons.setdefault(f"{kind}: {name}: {why}", []).append(case)
        for name, x in row.get("regimes", {}).items():
            reasons.setdefault(f"{name}: {x['regime']}: {x['why']}", []).append(case)
    lines = [f"{why} ({_some(cases)})" for why, cases in reasons.items()]
    if found["not_reached"]:
        lines.append(f"not reached in the time given: {', '.join(found['not_reached'])}")
    return lines


def _some(cases: list[str]) -> str:
    return ", ".join(cases) if len(cases) < 3 else f"{len(cases)} cases"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        show(json.load(file))
