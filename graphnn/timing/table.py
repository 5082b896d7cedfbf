"""Results as tables, on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from graphnn.timing.results import Found, title
from graphnn.timing.suite import OURS, lead, model_error

# the contenders that come first; others follow in the order of the results
ORDER = (OURS, "torch.nn", "eager", "torch.compile")
WIDE = 180


def console() -> Console:
    """Standard output; wide in a pipe, so that nothing is cut off."""
    out = Console(highlight=False)
    return out if out.is_terminal else Console(width=WIDE, highlight=False)


def printed(made: Table) -> str:
    """A table as plain text."""
    text = StringIO()
    Console(file=text, width=WIDE, highlight=False).print(made)
    return text.getvalue()


def show(found: Found, out: Console | None = None) -> None:
    """Print a line per case and pass; below it, the reasons for what was not timed."""
    out = out or console()
    out.print(table(found))
    for note in notes(found):
        out.print(Text(note))


def contenders(rows: Iterable[dict[str, Any]], first: str = OURS) -> list[str]:
    """All contenders that were timed, `first` before the others."""
    order = (first, *(n for n in ORDER if n != first))
    names = list(dict.fromkeys(n for row in rows for n in row["contenders"]))
    return sorted(names, key=lambda n: order.index(n) if n in order else len(order))


def table(found: Found) -> Table:
    """Medians in ms; for the lead its quartiles and share of the limit, for others their ratio."""
    ahead = lead(found)
    names = [n for n in contenders(found["rows"], ahead) if n != ahead]
    heading = f"{head(found['about'])}: median ms and quartiles; for others, the ratio to {ahead}"
    made = Table(title=heading, title_justify="left")
    made.add_column("case")
    made.add_column("pass")
    for column in (ahead, "quartiles", "of limit", "peak MB", *names):
        made.add_column(column, justify="right")
    if not any("peak_bytes" in c for row in found["rows"] for c in row["contenders"].values()):
        made.columns = [c for c in made.columns if c.header != "peak MB"]
    kept = [str(c.header) for c in made.columns]
    for row in found["rows"]:
        if row["contenders"]:
            cells = _cells(row, ahead, names)
            made.add_row(*(cells[name] for name in kept))
    return made


def head(about: dict[str, Any]) -> str:
    """The device, versions and date of results, in one line."""
    parts = [about["device"], f"torch {about['torch']}"]
    parts += [f"Triton {about['triton']}"] if about.get("triton") else []
    commit = f"commit {about['commit'][:9]}" if about.get("commit") else ""
    return ", ".join([*parts, about["date"], *filter(None, [commit])])


def _cells(row: dict[str, Any], ahead: str, names: list[str]) -> dict[str, str]:
    ours = row["contenders"].get(ahead)
    cells = {"case": title(row["case"]), "pass": row["pass"], ahead: "-", "quartiles": "-"}
    cells |= {"of limit": "-", "peak MB": "-"}
    if ours:
        cells[ahead] = ms(ours["median"])
        cells["quartiles"] = f"{ms(ours['low'])} to {ms(ours['high'])}"
        if "of_limit" in ours:
            cells["of limit"] = f"{100 * ours['of_limit']:.1f}% ({row['bound']})"
        if "peak_bytes" in ours:
            cells["peak MB"] = f"{ours['peak_bytes'] / 1e6:.0f}"
    return cells | {name: _other(row, name) for name in names}


def _other(row: dict[str, Any], name: str) -> str:
    known = row["contenders"].get(name)
    if known is None:
        return "failed" if name in row["failed"] else "absent" if name in row["absent"] else "-"
    times = f" ({known['ratio']:.2f}x)" if "ratio" in known else ""
    return f"{ms(known['median'])}{times}"


def ms(value: float) -> str:
    """Milliseconds with about three digits."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}" if value < 1 else f"{value:.2f}"


def notes(found: Found) -> list[str]:
    """The limits, the cost model's error, and each reason once with its cases."""
    lines = []
    if limits := found.get("limits"):
        lines.append(f"limits measured in this run: {limits_text(limits)}")
    if wrong := model_error(found):
        middle, worst, where = wrong
        lines.append(
            f"cost model: expected times are off by {middle:.2f}x in the median, "
            f"{worst:.2f}x at most ({where})"
        )
    reasons: dict[str, dict[str, None]] = {}
    for row in found["rows"]:
        for kind in ("failed", "absent"):
            for name, why in row[kind].items():
                reasons.setdefault(f"{kind}: {name}: {why}", {})[title(row["case"])] = None
    lines += [f"{why} ({_some(list(cases))})" for why, cases in reasons.items()]
    if found["not_reached"]:
        lines.append(f"not reached within the budget: {', '.join(found['not_reached'])}")
    return lines


def limits_text(limits: dict[str, Any]) -> str:
    """The limits of a device, in one line."""
    rates = [
        f"{dtype} matmul {max(r for _, r in pairs) / 1e9:.0f} GFLOP/s"
        for dtype, pairs in limits["products"].items()
    ]
    copies = [f"{rate / 1e9:.1f} GB/s at {size / 2**20:.3g} MB" for size, rate in limits["copies"]]
    parts = [f"copy {', '.join(copies)}", *rates]
    parts += [f"pointwise {limits['pointwise'] / 1e9:.0f} Gop/s"]
    parts += [f"launch {limits['launch'] * 1e6:.2f} µs"]
    parts += [f"grid barrier {limits['barrier'] * 1e6:.2f} µs"] if limits["barrier"] else []
    return ", ".join(parts)


def _some(cases: list[str]) -> str:
    return ", ".join(cases) if len(cases) < 3 else f"{len(cases)} cases"


def markdown(found: Found) -> str:
    """A Markdown table with a line per case: ours / the other (how many times faster ours is)."""
    passes = ("forward", "forward and backward")
    lines = [
        "| network | sizes | against | forward | forward and backward |",
        "|---|---|---|---|---|",
    ]
    cases: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        if row["pass"] in passes:
            cases.setdefault(title(row["case"]), {})[row["pass"]] = row
    for rows in cases.values():
        first = next(iter(rows.values()))
        timed = contenders(rows.values())
        against = next((n for n in timed if n != OURS), None)
        if OURS not in timed or against is None:
            continue
        sizes = " ".join(f"{k}{v}" for k, v in first["case"]["sizes"].items())
        cells = [first["case"]["network"], sizes, against]
        cells += [_pair(rows.get(what), against) for what in passes]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _pair(row: dict[str, Any] | None, against: str) -> str:
    found = row["contenders"] if row else {}
    if OURS not in found or against not in found:
        return "-"
    ours, other = found[OURS]["median"], found[against]["median"]
    return f"{ours:.1f} / {other:.1f} ({found[against]['ratio']:.2f}x)"
