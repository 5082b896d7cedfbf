"""The machine code of a kernel: registers, stack and spill instructions, read from a cubin.

The tools that read it, cuobjdump and nvdisasm, are part of Triton's package.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Any

from triton import knobs


@dataclass(frozen=True)
class MachineCode:
    """Registers and bytes of stack per thread; instructions that spill (STL) or reload (LDL)."""

    registers: int
    stack: int
    spills: int


def read_cubin(cubin: str) -> MachineCode:
    """Read the cubin in the file at `cubin`. Raises RuntimeError if a tool is missing or fails."""
    usage = _run("cuobjdump", "-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump -res-usage reports no registers or stack: {usage!r}")
    registers, stack = map(int, found.groups())
    # LOCAL is 0 even in kernels that spill. They spill to the stack: without one there is no need
    # to disassemble (0.25 s).
    spills = _spills(_run("nvdisasm", "-c", cubin)) if stack else 0
    return MachineCode(registers, stack, spills)


def _spills(sass: str) -> int:
    return len(re.findall(r"\b(?:STL|LDL)\b", sass))


def _run(name: str, *args: str) -> str:
    """Return what one of Triton's NVIDIA tools prints."""
    try:
        tool: Any = getattr(knobs.nvidia, name)
    except RuntimeError as error:
        raise RuntimeError(
            f"{name} is missing: it is part of Triton's package, under backends/nvidia/bin; "
            f"TRITON_{name.upper()}_PATH can name another"
        ) from error
    done = subprocess.run([tool.path, *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed on {args[-1]}: {done.stderr.strip()}")
    return done.stdout
