"""Changes of torch that hold while any thread draws a graph, and are undone when none does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Patch:
    """A change: `install()` makes it, and returns what undoes it."""

    def __init__(self, install: Callable[[], Callable[[], None]]):
        self._install, self._undo = install, None
        self._lock, self._depth = threading.RLock(), 0

    _undo: Any

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the change for a while."""
        with self._lock:
            if self._depth == 0:
                self._undo = self._install()
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._undo()


def attributes(owner: Any, **values: Any) -> Callable[[], Callable[[], None]]:
    """The change that gives a class other attributes, which may be new to it."""

    def install() -> Callable[[], None]:
        before = {name: vars(owner)[name] for name in values if name in vars(owner)}
        for name, value in values.items():
            setattr(owner, name, value)

        def undo() -> None:
            for name in values:
                if name in before:
                    setattr(owner, name, before[name])
                else:
                    delattr(owner, name)

        return undo

    return install
