"""Patches of torch that are applied while any thread traces, and undone afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Patch:
    """A patch: `install()` applies it and returns a function that undoes it."""

    def __init__(self, install: Callable[[], Callable[[], None]]):
        self._install, self._undo = install, None
        self._lock, self._depth = threading.RLock(), 0

    _undo: Any

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within this context, the patch is applied."""
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
    """The `install` of a patch that sets attributes of a class, existing or new ones."""

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
