"""The rows of the file of results: one for each Python, torch and Triton; and their table."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

CHECKED = ("import", "commands", "backends", "prelude", "kernels", "tests", "demo", "suite")
HEAD = ("Python", "torch", "Triton", "backends", "prelude", "kernels", "tests", "other")
NOT_RUN = "–"


def load(path: pathlib.Path) -> list[Row]:
    """The rows of a file; none if there is no file."""
    return json.loads(path.read_text())["rows"] if path.exists() else []  # type: ignore[no-any-return]


def save(path: pathlib.Path, rows: Iterable[Row]) -> None:
    """Write rows to a file, sorted, one line for each row's fields and for each kernel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"rows": sorted(rows, key=_order)}, indent=1)
    path.write_text(_short_lists(text) + "\n")


def merged(rows: Iterable[Row], new: Row) -> list[Row]:
    """The rows with a new one, whose checks replace those of the same versions."""
    kept = list(rows)
    for row in kept:
        if _order(row) == _order(new):
            row.update({**new, "checks": {**row["checks"], **new["checks"]}})
            return kept
    return [*kept, new]


def markdown(rows: Iterable[Row]) -> str:
    """The table of a page: what the checks of each row say."""
    lines = [HEAD, ["---"] * len(HEAD), *map(_cells, sorted(rows, key=_order))]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_triton(rows: Iterable[Row]) -> str:
    """The table of registers, spilled bytes and shared memory of some kernels in each Triton."""
    measured: dict[str, dict[tuple[str, str, str], str]] = {}
    for row in sorted(rows, key=_order):
        listed = row["checks"].get("kernels", {}).get("kernels", [])
        found = {(name, dtype, target): _taken(rest) for name, dtype, target, *rest in listed}
        if found:
            measured.setdefault(row["triton"], found)
    lines = [["kernel", "GPU", *measured], ["---"] * (2 + len(measured))]
    for key in SHOWN:
        name, dtype, target = key
        cells = (found.get(key, NOT_RUN) for found in measured.values())
        lines.append([f"{name}, {dtype}", target, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# the kernels of the second table
SHOWN = (
    ("LSTM 64, forward", "bf16", "sm_80"),
    ("LSTM 64, backward", "bf16", "sm_80"),
    ("LSTM 64, forward", "bf16", "sm_90"),
    ("LSTM 64, backward", "bf16", "sm_90"),
    ("LSTM 64, backward", "fp32", "sm_90"),
    ("LSTM 64, backward", "bf16", "sm_120"),
    ("LSTM 256, sharded, backward", "bf16", "sm_90"),
    ("NTM 16, backward", "bf16", "sm_90"),
    ("scan, backward", "bf16", "sm_90"),
)


def _taken(rest: list[Any]) -> str:
    registers, spilled, shared, fault = rest
    if fault:
        return "fails"
    text = f"{registers} / {shared / 1024:.0f} KB"
    return f"{text}, spills {spilled} bytes" if spilled else text


def _cells(row: Row) -> list[str]:
    checks = row["checks"]
    shown = [_text(checks.get(name)) for name in ("backends", "prelude", "kernels", "tests")]
    other = [n for n in ("import", "commands", "demo") if checks.get(n, {}).get("passed")]
    failed = [f"{n} fails" for n in ("import", "commands", "demo") if _failed(checks.get(n))]
    whole = checks.get("suite")
    other += [*failed, *([f"whole suite: {_text(whole)}"] if whole else [])]
    triton = row["triton"] or "none"
    return [row["python"], row["torch"].replace("+", " "), triton, *shown, ", ".join(other)]


def _failed(check: Row | None) -> bool:
    return check is not None and check["passed"] is False


def _text(check: Row | None) -> str:
    if check is None:
        return NOT_RUN
    return f"**fails**: {check['text']}" if check["passed"] is False else str(check["text"])


def _order(row: Row) -> tuple[Any, ...]:
    def number(text: str) -> tuple[int, ...]:
        return tuple(int(x) for x in text.partition("+")[0].split(".") if x.isdigit())

    return number(row["torch"]), row["torch"], number(row["triton"]), number(row["python"])[:2]


def _short_lists(text: str) -> str:
    """Join the lines of each list of numbers and texts, which json breaks."""
    lines: list[str] = []
    open_list = False
    for line in text.splitlines():
        inside = line.strip()
        if open_list:
            lines[-1] += inside if inside.startswith("]") else f" {inside}"
            open_list = not inside.startswith("]")
            continue
        lines.append(line)
        open_list = inside == "["
    return "\n".join(x.replace("[ ", "[") for x in lines)
