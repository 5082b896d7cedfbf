"""Reports a barrier that was never passed: an error that names the kernel and the step."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch


class StuckBarrier(RuntimeError):
    """A barrier of a cooperative kernel was never passed; all later results are NaN."""


class Watchdog:
    """Follows launches of one kernel. On a GPU a later call raises the error: no call waits."""

    def __init__(self, name: str):
        self.name = name
        self._pending: deque[tuple[Any, torch.Tensor]] = deque()

    def follow(self, stuck: torch.Tensor) -> None:
        """Notes a launch that may set `stuck` to the number of a step."""
        if not stuck.is_cuda:
            self._judge(int(stuck))
        elif not torch.cuda.is_current_stream_capturing():
            host = torch.empty(1, dtype=torch.int32, pin_memory=True)
            host.copy_(stuck, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._pending.append((event, host))

    def check(self) -> None:
        """Raises StuckBarrier if a launch that has ended was stuck."""
        while self._pending and self._pending[0][0].query():
            self._judge(int(self._pending.popleft()[1]))

    def _judge(self, step: int) -> None:
        if step:
            raise StuckBarrier(
                f"{self.name}: a barrier was never passed at step {step - 1}; all later results "
                "are NaN. All blocks of the kernel must run at the same time: was the GPU shared "
                "with another program? "
                "skip=('cooperative',) plans without such kernels"
            )
