"""Seeing what passes do: a record of the graph after each, and the output of GRAPHNN_DEBUG=ir."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from graphnn.ir.debug import show
from graphnn.ir.graph import IR

Recorded = list[tuple[str, IR]]
_RECORD: ContextVar[Recorded | None] = ContextVar("record of passes", default=None)


@contextmanager
def recording() -> Iterator[Recorded]:
    """A list that fills with the name of each pass that runs meanwhile, and the graph after it.

    with recording() as found:
        plan(ir, Variant(), [], frozenset(SWITCHABLE))
    print(found[-1][1])
    """
    found: Recorded = []
    token = _RECORD.set(found)
    try:
        yield found
    finally:
        _RECORD.reset(token)


def observe(name: str, title: str, before: IR, after: IR) -> None:
    """Record the graph after a pass; with GRAPHNN_DEBUG=ir print it if the pass changed it."""
    whole = f"{title}: {name}" if title else name
    if (record := _RECORD.get()) is not None:
        record.append((whole, after.copy()))
    show("ir", f"{after.name} after {whole}", lambda: _changed(before, after))


def _changed(before: IR, after: IR) -> str:
    """The graph after a pass, or nothing if it is the same as before."""
    text = str(after)
    return "" if after is before or text == str(before) else text
