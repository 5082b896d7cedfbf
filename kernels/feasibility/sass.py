"""What the assembler made of a kernel: registers, stack and spill instructions, read from a cubin.

The tools that read it, cuobjdump and nvdisasm, ship inside Triton's package.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from typing import Any

from triton import knobs


@dataclass(frozen=True)
class Assembled:
    """Registers and bytes of stack a thread; instructions that spill (STL) or refill (LDL)."""

    registers: int
    stack: int
    spills: int


def assembled(cubin: str) -> Assembled:
    """Read the cubin in the file at `cubin`."""
    usage = _run("cuobjdump", "-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump -res-usage says neither registers nor stack: {usage!r}")
    registers, stack = map(int, found.groups())
    # LOCAL is 0 even in kernels that spill; the stack is where they spill to, so that without one
    # the disassembly (0.25 s) has nothing to show
    spills = _spills(_run("nvdisasm", "-c", cubin)) if stack else 0
    return Assembled(registers, stack, spills)


def _spills(sass: str) -> int:
    return len(re.findall(r"\b(?:STL|LDL)\b", sass))


def _run(name: str, *args: str) -> str:
    """What one of Triton's NVIDIA tools prints."""
    try:
        tool: Any = getattr(knobs.nvidia, name)
    except RuntimeError as error:
        raise RuntimeError(
            f"{name} is missing: it ships in Triton's package, under backends/nvidia/bin; "
            f"TRITON_{name.upper()}_PATH may name another"
        ) from error
    done = subprocess.run([tool.path, *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} failed on {args[-1]}: {done.stderr.strip()}")
    return done.stdout
