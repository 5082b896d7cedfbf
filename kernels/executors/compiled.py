"""Compiles a launch for a GPU that is absent, exactly as Triton does if that GPU is present.

Triton specialises a kernel on its arguments in `JITFunction.warmup`, which asks the active driver
for its target. Here that driver describes the absent GPU; everything else is Triton's own path.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.driver import driver

from .executor import KernelLaunch

# Triton's kernel of a launch, and the arguments that its PTX takes
CompiledLaunch = tuple[Any, list[Any]]
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


def compiled(launch: KernelLaunch, target: str, assemble: bool = False) -> CompiledLaunch:
    """Return Triton's kernel of a launch, and the arguments that its PTX takes.

    Without `assemble` the kernel ends at PTX, which takes half of the time; its `asm["cubin"]` is
    empty. Raises what Triton raises if the kernel does not compile.
    """
    with _LOCK, _driver(AbsentGpu(target)), _stages(assemble):
        kernel = launch.function.warmup(
            *launch.args, grid=launch.grid, **launch.constants, **launch.options
        )
    fixed = {path[0] for path in kernel.src.constants}
    names = launch.function.arg_names
    given = dict(zip(launch.argument_names, launch.args, strict=True))
    return kernel, [given[n] for i, n in enumerate(names) if i not in fixed]


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
    """Leave out the assembler, unless `assemble`."""
    if assemble:
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
