"""Reports a barrier that was never passed: an error that names the kernel and the step."""

from __future__ import annotations

from .late import LateCheck


class StuckBarrier(RuntimeError):
    """A barrier of a cooperative kernel was never passed; all later results are NaN."""


class Watchdog(LateCheck):
    """Follows the launches of one kernel, which set its flag to the number of a step if stuck.

    On a GPU a later call raises the error: no call waits. The last calls are judged at exit.
    """

    def __init__(self, name: str):
        def judge(step: int) -> None:
            raise StuckBarrier(
                f"{name}: a barrier was never passed at step {step - 1}; all later results "
                "are NaN. All blocks of the kernel must run at the same time: was the GPU shared "
                "with another program? "
                "skip=('cooperative',) plans without such kernels"
            )

        super().__init__(judge)
