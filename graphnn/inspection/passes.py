"""The graphs that passes leave, as `Compiled.passes` records them, by the names of passes."""

from __future__ import annotations

from collections.abc import Sequence

from graphnn.ir.graph import IR
from graphnn.planner.pipeline import PASSES

Passes = Sequence[tuple[str, IR]]


def names(passes: Passes) -> list[str]:
    """The names of the passes that ran, with the parts they ran on, each once, in order."""
    return list(dict.fromkeys(title for title, _ in passes))


def graphs_after(passes: Passes, wanted: str) -> str:
    """The graph after each run of a pass as SSA text; "" if the pass did not run.

    `wanted` is the name of the pass, with or without that of the part of the model it ran on, or
    its word in `gn.compile(skip=...)`.
    """
    name = {p.skip: p.name for p in PASSES}.get(wanted, wanted)
    found = [(title, ir) for title, ir in passes if name in (title, title.rpartition(": ")[2])]
    return "\n\n".join(f"after {title}: {ir}" for title, ir in found)
