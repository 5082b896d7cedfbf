"""Files of results: timings with their provenance.

`about` is the provenance, `limits` are the device's limits measured in the same run, `rows` has one
entry per case and pass, and `not_reached` lists the cases for which there was no time.
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
    """Write results as JSON, atomically: an interrupted run leaves the previous file.

    Raises TimingError if the file cannot be written.
    """
    place = pathlib.Path(path)
    part = place.with_name(f".{place.name}.part")
    try:
        part.write_text(json.dumps(found, indent=1) + "\n")
        os.replace(part, place)
    except OSError as problem:
        raise TimingError(
            "results cannot be written",
            got=f"'{place}': {problem.strerror}",
            wanted="a file in a folder that exists and is writable",
        ) from None


def load(path: str | os.PathLike[str]) -> Found:
    """Read results. Raises TimingError if the file has none."""
    try:
        found = json.loads(pathlib.Path(path).read_text())
    except OSError as problem:
        raise TimingError(
            "results cannot be read",
            got=f"'{path}': {problem.strerror}",
            wanted="a JSON file that `graphnn bench --save` wrote",
        ) from None
    except ValueError as problem:
        raise _no_results(path, f"not JSON: {problem}") from None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        version = found.get("schema") if isinstance(found, dict) else None
        raise _no_results(path, f"schema {version}, not {SCHEMA}")
    if not isinstance(found.get("about"), dict) or not isinstance(found.get("rows"), list):
        raise _no_results(path, "no 'about' or no 'rows' in it")
    return found


def _no_results(path: Any, why: str) -> TimingError:
    return TimingError(
        "this file has no results",
        got=f"'{path}': {why}",
        wanted="a JSON file that `graphnn bench --save` wrote",
    )


def title(case: dict[str, Any]) -> str:
    """A case in one line: network, sizes and dtype."""
    sizes = " ".join(f"{k}{v}" for k, v in case["sizes"].items())
    return f"{case['network']} {sizes} {case['dtype']}".replace("  ", " ")


def label(row: dict[str, Any]) -> tuple[str, str]:
    """The case and the pass of a row, which identify it."""
    return title(row["case"]), row["pass"]
