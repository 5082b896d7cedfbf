"""The options of a lowering as text, for keys: what generated code and its launches depend on."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from graphnn.kernels.executors.executor import Executor
from graphnn.kernels.feasibility.large_tiles import large_tiles

# marks the fields of a lowering that hold what it has made; all others are options
STATE = {"state": True}


def options_text(lowering: Any) -> str:
    """Return every option of a lowering, and whether its target has large tiles.

    A field is an option unless it is marked as `STATE`, so that a new option cannot be forgotten.
    Raises TypeError for an option whose text would differ from process to process.
    """
    options = [f.name for f in fields(lowering) if not f.metadata.get("state")]
    lines = [f"{name}: {_plain(name, getattr(lowering, name))}" for name in options]
    return "\n".join([*lines, f"large tiles: {large_tiles(lowering.target)}"])


def _plain(name: str, value: Any) -> str:
    if isinstance(value, Executor):
        return value.name
    if isinstance(value, frozenset):
        return ", ".join(sorted(_plain(name, x) for x in value))
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise TypeError(
        f"the option {name} of a lowering is {value!r}; wanted a bool, a number, a text or a set "
        "of them: it is part of keys"
    )
