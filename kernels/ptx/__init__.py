"""Executes PTX on the CPU: what Triton compiled is run, not its source.

program = ptx.parse(kernel.asm["ptx"])
report = ptx.run(program, (4, 1), [x, y, 128], shared=kernel.metadata.shared)
assert not report.races
"""

from __future__ import annotations

from .launch import run
from .parser import parse
from .program.program import Instruction, Program
from .program.report import Finding, PtxFault, Report

__all__ = ["Finding", "Instruction", "Program", "PtxFault", "Report", "parse", "run"]
