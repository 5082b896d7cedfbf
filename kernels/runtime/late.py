"""Late checks: numbers that a GPU writes are read without waiting for it, so errors come late.

Work on a GPU adds to a flag in its memory. Every EVERY-th call copies the flag to pinned memory; a
later call looks at it once the copy is done. Nothing is looked at while a CUDA graph is captured:
CUDA then forbids to query events. The replays of a graph write to the same flag, however, which
later calls outside the graph read.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

_LOG = logging.getLogger(__name__)
# calls from one copy of a flag to the next
EVERY = 16
_CHECKS: weakref.WeakSet[LateCheck] = weakref.WeakSet()


class _Flag:
    """A flag in the memory of one GPU, and its copy in pinned memory."""

    def __init__(self, device: torch.device):
        with torch.inference_mode(False):  # else it could not be written outside of it
            self.value = torch.zeros(1, dtype=torch.int32, device=device)
            self.copy = torch.empty(1, dtype=torch.int32, pin_memory=True)
        self.device = device
        with torch.cuda.device(device):
            self.copied = torch.cuda.Event()
            torch.cuda.current_stream().synchronize()  # other streams may write to it at once
        self.calls, self.copying, self.unread = 0, False, False
        self.process = os.getpid()  # a fork cannot use its parent's GPU

    def look(self) -> int:
        """Return the flag as some calls ago, or 0 if that is not known yet. Never waits."""
        self.unread = True
        if self.copying:
            if not self.copied.query():
                return 0
            self.copying = False
            if found := int(self.copy):
                return self._taken(found)
        if self.calls % EVERY == 0:
            with torch.cuda.device(self.device):
                self.copy.copy_(self.value, non_blocking=True)
                self.copied.record()
            self.copying = True
        self.calls += 1
        return 0

    def wait(self) -> int:
        """Return the flag, after the work that was launched on the GPU."""
        self.copying = self.unread = False
        found = int(self.value)
        return self._taken(found) if found else 0

    def _taken(self, found: int) -> int:
        self.value.zero_()
        return found


class LateCheck:
    """A number that work on a GPU leaves at 0 if all is well; `judge` raises for others."""

    def __init__(self, judge: Callable[[int], None]):
        self.judge = judge
        self._flags: dict[torch.device, _Flag] = {}
        _CHECKS.add(self)

    def flag(self, device: torch.device) -> Tensor:
        """Return the flag of a device, (1,) int32, for work that is launched next.

        A graph that is captured before any other call has a flag of its own, which is never read.
        """
        if device.type != "cuda" or (device not in self._flags and _capturing()):
            return torch.zeros(1, dtype=torch.int32, device=device)
        if device not in self._flags:
            self._flags[device] = _Flag(device)
        return self._flags[device].value

    def look(self, flag: Tensor) -> None:
        """Judge a flag after a launch that may write to it: late on a GPU, at once on a CPU."""
        if not flag.is_cuda:
            self._judged(int(flag))
        elif not _capturing() and flag.device in self._flags:
            self._judged(self._flags[flag.device].look())

    def wait(self) -> None:
        """Wait for all launches that were not judged yet, and judge them."""
        for flag in self._flags.values():
            if flag.unread and flag.process == os.getpid():
                self._judged(flag.wait())

    def _judged(self, found: int) -> None:
        if found:
            self.judge(found)


def wait() -> None:
    """Judge all launches now: for callers that have waited for the GPU anyway."""
    if _CHECKS and not _capturing():
        for check in list(_CHECKS):
            check.wait()


def _capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


@atexit.register
def _at_exit() -> None:
    """Report the faults of the last calls, which no later call has reported."""
    for check in list(_CHECKS):
        try:
            check.wait()
        except Exception as error:  # the GPU may be gone; the process ends in any case
            _LOG.error("found at exit: %s", error)
