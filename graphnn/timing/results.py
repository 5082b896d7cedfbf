"""Results as files: what a run of timings found, with what it takes to believe it.

`about` says where and with what, `limits` what the device reached in the same run, `rows` one case
and pass each, `not_reached` what there was no time for.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from graphnn.errors import TimingError

SCHEMA = 1
Found = dict[str, Any]


def empty(about: dict[str, Any], limits: dict[str, Any] | None = None) -> Found:
    """Results without rows."""
    return {"schema": SCHEMA, "about": about, "limits": limits, "rows": [], "not_reached": []}


def save(found: Found, path: str | os.PathLike[str]) -> None:
    """Write results as JSON, whole: a run that is cut short leaves the file before."""
    place = pathlib.Path(path)
    part = place.with_name(f".{place.name}.part")
    try:
        part.write_text(json.dumps(found, indent=1) + "\n")
        os.replace(part, place)
    except OSError as problem:
        raise TimingError(
            "results cannot be written",
            got=f"'{place}': {problem.strerror}",
            wanted="a file in a folder that exists and may be written",
        ) from None


def load(path: str | os.PathLike[str]) -> Found:
    """Read results. Raises TimingError where the file is no file of results."""
    try:
        found = json.loads(pathlib.Path(path).read_text())
    except OSError as problem:
        raise TimingError(
            "results cannot be read",
            got=f"'{path}': {problem.strerror}",
            wanted="a JSON file that `graphnn bench --save` wrote",
        ) from None
    except ValueError as problem:
        raise _no_results(path, f"no JSON: {problem}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        version = found.get("schema") if isinstance(found, dict) else None
        raise _no_results(path, f"schema {version}, not {SCHEMA}")
    if not isinstance(found.get("about"), dict) or not isinstance(found.get("rows"), list):
        raise _no_results(path, "no 'about' or no 'rows' in it")
    return found


def _no_results(path: Any, why: str) -> TimingError:
    return TimingError(
        "this is no file of results",
        got=f"'{path}': {why}",
        wanted="a JSON file that `graphnn bench --save` wrote",
    )


def title(case: dict[str, Any]) -> str:
    """A case in one line: its network, sizes and dtype."""
    sizes = " ".join(f"{k}{v}" for k, v in case["sizes"].items())
    return f"{case['network']} {sizes} {case['dtype']}".replace("  ", " ")


def label(row: dict[str, Any]) -> tuple[str, str]:
    """What tells a row from others: its case and pass."""
    return title(row["case"]), row["pass"]
