"""Compiles a launch for a GPU that is absent, exactly as Triton does if that GPU is present.

Triton specialises a kernel on its arguments in `JITFunction.warmup`, which asks the active driver
for its target. Here that driver describes the absent GPU; everything else is Triton's own path.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from ..notice import compiling
from .executor import KernelLaunch

# Triton's kernel of a launch, and the arguments that its PTX takes
CompiledLaunch = tuple[Any, list[Any]]
# the most kernels that are compiled at once: each takes up to 1 GB of memory
MOST_THREADS = 8
# the active driver is one for the whole process
_LOCK = threading.RLock()


class AbsentGpu(DriverBase):  # type: ignore[misc]
    """The driver of a GPU that is absent: compiles, and cannot launch."""

    def __init__(self, target: str) -> None:
        self.target = target

    @classmethod
    def is_active(cls) -> bool:
        """Whether Triton may choose this driver by itself."""
        return False

    def get_current_target(self) -> GPUTarget:
        """Return the target that is compiled for."""
        return GPUTarget("cuda", int(self.target.removeprefix("sm_")), 32)

    def get_current_device(self) -> Any:
        """Return the key under which a function keeps its kernels, instead of a device number."""
        return self.target

    def get_current_stream(self, device: Any) -> int:
        """Return a stream, which nothing uses."""
        return 0

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Return the C type of an argument: only a launcher needs it."""
        raise TypeError(f"no launcher is made for {self.target}, which is absent ({ty})")

    def get_active_torch_device(self) -> Any:
        """Return torch's device: there is none."""
        raise RuntimeError(f"{self.target} is absent")

    def get_benchmarker(self) -> Any:
        """Return what times kernels: there is none."""
        raise RuntimeError(f"{self.target} is absent")


def warmed(launch: KernelLaunch) -> Any:
    """Return Triton's kernel of a launch, compiled for the GPU of the active driver."""
    return launch.function.warmup(
        *launch.args, grid=launch.grid, **launch.constants, **launch.options
    )


def in_parallel(
    compile_one: Callable[[KernelLaunch], Any], launches: Sequence[KernelLaunch]
) -> list[str]:
    """Compile launches in threads; return, for each, why it does not compile, or an empty text.

    Triton releases the GIL while it compiles, and the assembler is a process of its own.
    """

    def fault(launch: KernelLaunch) -> str:
        name = launch.function.__name__
        try:
            with compiling(name):
                compile_one(launch)
        except Exception as error:  # failures of passes and of the assembler have no common class
            return f"{type(error).__name__}: {error}"
        return ""

    for launch in launches:
        launch.function.cache_key  # noqa: B018  computed once: older Tritons do so without a lock
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(fault, launches))


def compiled(launch: KernelLaunch, target: str, assemble: bool = False) -> CompiledLaunch:
    """Return Triton's kernel of a launch, and the arguments that its PTX takes.

    Without `assemble` the kernel ends at PTX, which takes half of the time; its `asm["cubin"]` is
    empty. Raises what Triton raises if the kernel does not compile.
    """
    with _LOCK, _driver(AbsentGpu(target)), _stages(assemble):
        kernel = warmed(launch)
    fixed = {path[0] for path in kernel.src.constants}
    names = launch.function.arg_names
    given = dict(zip(launch.argument_names, launch.args, strict=True))
    return kernel, [given[n] for i, n in enumerate(names) if i not in fixed]


def compile_all(launches: Sequence[KernelLaunch], target: str) -> list[str]:
    """Compile launches for an absent GPU, side by side, into Triton's cache.

    Returns, for each launch, why it does not compile, or an empty text.
    """
    with _LOCK, _driver(AbsentGpu(target)):
        return in_parallel(warmed, launches)


@contextmanager
def _driver(active: DriverBase) -> Iterator[None]:
    """Make a driver the active one."""
    try:
        before: Any = driver.active
    except RuntimeError:  # there is no GPU, so there is no driver
        before = None
    driver.set_active(active)
    try:
        yield
    finally:
        driver.set_active(before)


@contextmanager
def _stages(assemble: bool) -> Iterator[None]:
    """Leave out the assembler, unless `assemble`. Triton 3.5 always assembles: it has no hook."""
    if assemble or not hasattr(knobs.runtime, "add_stages_inspection_hook"):
        yield
        return
    before = knobs.runtime.add_stages_inspection_hook
    knobs.runtime.add_stages_inspection_hook = _without_assembler
    try:
        yield
    finally:
        knobs.runtime.add_stages_inspection_hook = before


def _without_assembler(backend: Any = None, stages: Any = None, *rest: Any) -> tuple[str, str]:
    """Replace the last stage; called without arguments, return what Triton's cache keys gain."""
    if stages is not None:
        stages["cubin"] = lambda source, metadata: b""
    return "without assembler", "without assembler"
