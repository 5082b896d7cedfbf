"""Runs compiled kernels without their GPU: Triton's PTX, executed on CPU tensors."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from .. import ptx
from .compiled import CompiledLaunch, compiled
from .executor import Executor, GpuInfo, KernelLaunch

# the GPUs whose instructions the executor of PTX knows, one for each target
EXECUTED = {
    info.target: info
    for info in (
        GpuInfo("T4", "sm_75", 40),
        GpuInfo("A100", "sm_80", 108),
        GpuInfo("RTX 3090", "sm_86", 82),
        GpuInfo("RTX 4090", "sm_89", 128),
        GpuInfo("H200", "sm_90", 132),
    )
}


class PtxRace(RuntimeError):
    """Threads of a compiled kernel access one element in no order; the results are not certain."""


class PtxExecutor(Executor):
    """Runs each launch as it would be compiled for `target`: arguments, constants and options.

    `seed` decides the order of programs that run together, and the errors of approximate
    instructions. Raises `ptx.PtxFault` or `PtxRace` if a kernel is wrong. Both name the statement,
    the line of the kernel and the node that it computes.
    """

    device_type = "cpu"

    def __init__(self, target: str, seed: int = 0) -> None:
        self.target, self.seed = target, seed
        self.name = f"ptx:{target}"

    def gpu(self, index: int) -> GpuInfo:
        """Return the GPU that kernels are compiled for."""
        return EXECUTED[self.target]

    def run(self, launch: KernelLaunch) -> None:
        """Compile the launch, execute it, and raise what is wrong."""
        report = self.execute(launch)
        if report.races:
            found = "\n".join(map(str, report.races))
            raise PtxRace(f"{launch.function.__name__} compiled for {self.target}: {found}")

    def execute(self, launch: KernelLaunch, made: CompiledLaunch | None = None) -> ptx.Report:
        """Execute a launch, compiled or `made` before; return what was observed, races included."""
        kernel, given = made or compiled(launch, self.target)
        return ptx.run(
            ptx.parse(kernel.asm["ptx"]),
            launch.grid,
            given,
            shared=kernel.metadata.shared,
            cooperative=launch.together,
            seed=self.seed,
            describe=node_of_line,
        )


def node_of_line(file: str, line: int) -> str:
    """Return which node a line of a generated kernel computes: the comment above it, or nothing.

    Generated kernels have one comment for each node, with the name and line of the user.
    """
    text = _lines(file)
    if not 0 < line <= len(text):
        return ""
    indent = len(text[line - 1]) - len(text[line - 1].lstrip())
    for above in reversed(text[: line - 1]):
        found = re.match(r"(\s*)# (.+, [^\s:]+:\d+.*)", above)
        if found and len(found[1]) <= indent:
            return found[2]
        if re.match(r"\s*(def|@triton)", above):
            break
    return ""


@lru_cache(maxsize=64)
def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
