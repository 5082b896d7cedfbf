"""The memory of all CUDA graphs of a process: one budget per device, the least recently used go."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from typing import Any

# the fraction of a device's memory that all graphs together may hold
SHARE = 1 / 16


class Held:
    """A graph that holds `size` bytes of `device`; `drop` makes its owner forget it."""

    def __init__(self, device: Any, size: int, drop: Callable[[], None]):
        self.device, self.size, self.drop = device, size, drop
        self.turn = 0


class GraphMemory:
    """All graphs that are kept, referenced weakly: their owners own them."""

    def __init__(self) -> None:
        self._graphs: weakref.WeakSet[Held] = weakref.WeakSet()
        self._turns = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, graph: Held, budget: float) -> bool:
        """Keep a graph, and drop those used longest ago until all fit the `budget` in bytes.

        Returns False, and drops nothing, if the graph alone does not fit.
        """
        if graph.size > budget:
            return False
        with self._lock:
            others = sorted(self._on(graph.device), key=lambda x: x.turn)
            total = graph.size + sum(x.size for x in others)
            for other in others:
                if total <= budget:
                    break
                self._drop(other)
                total -= other.size
            self._graphs.add(graph)
        self.use(graph)
        return True

    def use(self, graph: Held) -> None:
        """Note that a graph was replayed just now."""
        graph.turn = next(self._turns)

    def drop_all(self, device: Any) -> bool:
        """Drop all graphs of a device, which needs their memory. Returns whether there were any."""
        with self._lock:
            found = self._on(device)
            for graph in found:
                self._drop(graph)
        return bool(found)

    def held(self, device: Any) -> int:
        """Return the bytes that graphs hold on a device."""
        return sum(x.size for x in self._on(device))

    def _on(self, device: Any) -> list[Held]:
        return [x for x in self._graphs if x.device == device]

    def _drop(self, graph: Held) -> None:
        self._graphs.discard(graph)
        graph.drop()


GRAPHS = GraphMemory()
