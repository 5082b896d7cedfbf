"""The interface between launchers and what runs their kernels.

A launcher decides what is launched: tensors, grid, constants and options. An `Executor` runs it.
Whoever wants to see, check or replace launches does so here, with `launches_run_by`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class GpuInfo(NamedTuple):
    """The name of a GPU, the target that its kernels are compiled for, its multiprocessors."""

    name: str
    target: str
    processors: int


@dataclass(slots=True)
class KernelLaunch:
    """A kernel with everything that a launch of it is given.

    `constants` are constexpr arguments by name. `options` are those of the compiler and the
    driver (num_warps, maxnreg ...); they do not change results. `outputs` and `scratch` are
    positions among `args`: what the kernel stores, and what its programs exchange. If `together`,
    programs wait for each other, so all of them must run at the same time. `family` says what the
    kernel is written by: kernels of one family look alike to the compiler.
    """

    function: Any
    grid: tuple[int, ...]
    args: Sequence[Any]
    constants: dict[str, Any]
    options: dict[str, Any]
    outputs: Sequence[int] = ()
    scratch: Sequence[int] = ()
    together: bool = False
    family: str = ""

    @property
    def argument_names(self) -> list[str]:
        """The names of `args`, in order."""
        return [n for n in self.function.arg_names if n not in self.constants]


class Executor(ABC):
    """Runs kernels on tensors of one type of device.

    If it `interprets`, kernels are not compiled: small tiles are the fastest, nothing must fit a
    GPU, and matmuls of 16 bits are computed in float32. If it is `timed`, launches may be timed to
    find the fastest one. If it is `checked`, kernels are compared with torch on first use: see
    `kernels/trust/`.
    """

    name: str
    device_type: str
    interprets = False
    timed = False
    checked = False

    @abstractmethod
    def gpu(self, index: int) -> GpuInfo:
        """Return the GPU whose limits kernels must respect; `index` is that of the tensors."""

    @abstractmethod
    def run(self, launch: KernelLaunch) -> None:
        """Run one launch."""

    def prepare(self, launches: Sequence[KernelLaunch]) -> None:
        """Compile launches, so that their first run does not have to; run none of them."""
        return

    def launch(self, launch: KernelLaunch) -> None:
        """Run one launch, or give it to what replaces the executor."""
        if _RUNNERS:
            _RUNNERS[-1](self, launch)
        else:
            self.run(launch)

    def wait(self, tensor: torch.Tensor) -> None:
        """Wait until the launches on a tensor's device have run; raise what they failed by.

        `run` itself waits, unless this is overridden.
        """
        return

    def device_of(self, tensor: torch.Tensor) -> AbstractContextManager[Any]:
        """Return a context in which the device of a tensor is the current one."""
        return nullcontext()


LaunchRunner = Callable[[Executor, KernelLaunch], None]
_RUNNERS: list[LaunchRunner] = []


@contextmanager
def launches_run_by(runner: LaunchRunner) -> Iterator[None]:
    """Give every launch to `runner(executor, launch)`, which may call `executor.run(launch)`."""
    _RUNNERS.append(runner)
    try:
        yield
    finally:
        # the last of equal ones: another thread may have added its own since
        at = max(k for k, other in enumerate(_RUNNERS) if other == runner)
        del _RUNNERS[at]


def current_runner() -> LaunchRunner:
    """Return what runs launches now: the executor, or what replaces it."""
    return _RUNNERS[-1] if _RUNNERS else lambda executor, launch: executor.run(launch)
