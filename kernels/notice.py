"""Says on stderr that kernels are being compiled, if that takes more than a few seconds.

One line after SECONDS seconds of compiling, and another one after each further AGAIN seconds. It is
a warning of the logger "graphnn.kernels.notice"; GRAPHNN_QUIET=1 turns it off.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOG = logging.getLogger(__name__)
SECONDS, AGAIN = 5.0, 30.0


class _Compiling:
    """What is compiled now, and for how long this process has compiled."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.names: list[str] = []
        self.count, self.spent, self.began, self.due = 0, 0.0, 0.0, SECONDS
        self.timer: threading.Timer | None = None

    def begin(self, name: str) -> None:
        with self.lock:
            self.names.append(name)
            self.count += 1
            if len(self.names) == 1:
                self.began = time.monotonic()
                self.wait(self.due - self.spent)

    def end(self, name: str) -> None:
        with self.lock:
            self.names.remove(name)
            if not self.names:
                self.spent += time.monotonic() - self.began
                if self.timer is not None:
                    self.timer.cancel()

    def wait(self, seconds: float) -> None:
        self.timer = threading.Timer(max(0.0, seconds), self.tell)
        self.timer.daemon = True
        self.timer.start()

    def tell(self) -> None:
        with self.lock:
            if not self.names:
                return
            seconds = self.spent + time.monotonic() - self.began
            self.due = seconds + AGAIN
            self.wait(AGAIN)
            name, count = self.names[-1], self.count
        if os.environ.get("GRAPHNN_QUIET", "0") == "0":
            _LOG.warning(
                "graphnn: compiling kernels, once: %s is number %d, %.0f s so far; they are kept "
                "on disk (GRAPHNN_QUIET=1 turns this message off)", name, count, seconds,
            )  # fmt: skip


_NOW = _Compiling()


@contextmanager
def compiling(name: str) -> Iterator[None]:
    """Say so if the kernel `name`, which is compiled within this block, takes long."""
    now = _NOW
    now.begin(name)
    try:
        yield
    finally:
        now.end(name)
