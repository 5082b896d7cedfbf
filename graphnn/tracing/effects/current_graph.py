"""The graph that the current thread is building: that of `gn.index`, `gn.length` and the like."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from graphnn.tracing.effects.symbolic import GraphLike

_LOCAL = threading.local()


def current_graph() -> GraphLike | None:
    """The graph made last in this thread, if it is still alive."""
    latest = getattr(_LOCAL, "latest", None)
    return None if latest is None else latest()


def set_current(graph: GraphLike | None) -> None:
    """Make a graph the current one. It is not kept alive."""
    _LOCAL.latest = None if graph is None else weakref.ref(graph)


@contextmanager
def tracing_into(graph: GraphLike) -> Iterator[None]:
    """While a module is traced into `graph`; afterwards an outer trace's graph is current again."""
    outer, _LOCAL.outer = getattr(_LOCAL, "outer", None), graph
    try:
        yield
    finally:
        _LOCAL.outer = outer
        set_current(outer)
