"""Check ahead of time whether kernels fit GPUs that need not be present: compile and inspect them.

`inspect` returns the resources of one kernel on one target, `table` the verdicts on many cases.
`main` is a command that fails if a case spills, exceeds the target's limits or reloads its weights:

    resources = inspect(kernel, {"x_ptr": "*bf16", "n": "i32"}, {"BLOCK": 128}, target="sm_90")
    print(resources.registers, resources.spills, resources.faults())
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import triton
from rich.console import Console
from rich.table import Table
from rich.text import Text
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from . import large_tiles
from .compile_process import judge_in_subprocess
from .limits import TENSOR_MEMORY, register_cap
from .sass import read_cubin
from .targets import TARGETS as KNOWN_TARGETS
from .targets import capability, has_matrix_units
from .ttgir import census

# for which the table is made if no target is named
TARGETS = ("sm_80", "sm_90", "sm_100")
# the matrix instructions of Ampere, Hopper and Blackwell in PTX
_MATMULS = {"mma": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
_INSPECTED: dict[tuple[str, str, tuple[tuple[str, Any], ...]], Resources] = {}
# the most kernels whose resources are remembered
MAX_INSPECTED = 1024


class DoesNotCompile(RuntimeError):
    """Triton or the assembler failed to compile a kernel."""


@dataclass(frozen=True)
class Resources:
    """The resources of a compiled kernel. Sizes are in bytes, shared memory is per block.

    `matmuls` counts matrix instructions by kind; "fma" counts dots compiled without any. Arguments
    in `loaded_inside` are loaded inside a loop. Values of those in `staged_inside` are copied to
    shared memory inside a loop.
    """

    target: str
    threads: int
    registers: int
    stack: int
    spills: int
    shared: int
    tensor_memory: int
    matmuls: Mapping[str, int]
    loads_before: int
    loads_inside: int
    loaded_inside: tuple[str, ...]
    staged_inside: tuple[str, ...]
    copies_inside: int
    conversions_inside: int

    @property
    def shared_limit(self) -> int:
        """The most shared memory per block on this target."""
        return KNOWN_TARGETS[self.target].shared_memory

    @property
    def spill_fault(self) -> str:
        """The fault that registers are spilled, or an empty text."""
        text = f"spills: {self.spills} instructions, {self.stack} bytes per thread"
        return text if self.spills or self.stack else ""

    @property
    def register_fault(self) -> str:
        """The fault that all registers are used, or an empty text."""
        text = f"all {self.registers} registers of a thread are used"
        return text if self.registers >= register_cap(self.threads) else ""

    def faults(self, loaded_once: Sequence[str] = ()) -> list[str]:
        """Return what keeps the kernel from fitting, as text.

        `loaded_once` names arguments that must be loaded only before the loop.
        """
        found = [*filter(None, (self.spill_fault, self.register_fault))]
        if self.shared > self.shared_limit:
            found.append(f"shared memory: {self.shared:,} bytes of {self.shared_limit:,}")
        if self.tensor_memory > TENSOR_MEMORY:
            found.append(f"tensor memory: {self.tensor_memory} columns of {TENSOR_MEMORY}")
        again = [name for name in loaded_once if name in self.loaded_inside]
        found += [f"{name} is loaded again inside the loop" for name in again]
        staged = [name for name in loaded_once if name in self.staged_inside and name not in again]
        return found + [f"{name} is copied to shared memory inside the loop" for name in staged]


def unverified(found: Resources) -> str:
    """Return the instruction of large tiles that a kernel has although they are not verified."""
    instruction = large_tiles.instruction(found.target)
    if found.matmuls.get(instruction) and not large_tiles.large_tiles(found.target):
        return instruction
    return ""


def inspect(
    function: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any],
    target: str = "sm_90",
    warps: int = 4,
    stages: int = 1,
    cooperative: bool = False,
    maxnreg: int | None = None,
) -> Resources:
    """Compile a `@triton.jit` function for `target`, without a GPU, and return its resources.

    `signature` gives the types of the arguments ("*bf16", "i32"), `constants` the constexprs.
    Pointers are assumed to be divisible by 16 bytes. It takes about a second; repeating a call is
    free. Raises ValueError for an unknown target or wrong arguments, TypeError if the function is
    not compiled by Triton, and DoesNotCompile if compiling fails.

    Try `maxnreg=register_cap(32 * warps)` if a few instructions spill: the assembler may have
    stopped at 128 registers (sm_100, Triton 3.9, a GRU of 128 units and 64 rows: 4 spills; 183
    registers and none with it). It does not always help: near the cap it causes as many spills as
    it avoids.
    """
    if target not in KNOWN_TARGETS:
        raise ValueError(f"target {target!r} is none of {', '.join(KNOWN_TARGETS)}")
    if not isinstance(function, JITFunction):
        raise TypeError(f"{function!r} is not compiled by @triton.jit (is TRITON_INTERPRET set?)")
    options = {
        "num_warps": warps,
        "num_stages": stages,
        "launch_cooperative_grid": cooperative,
        "maxnreg": maxnreg,
        "enable_fp_fusion": True,  # Triton 3.9 warns if this is not given
    }
    source = _source(function, signature, constants)
    key = (source.hash(), target, tuple(options.items()))
    if key not in _INSPECTED:
        if len(_INSPECTED) >= MAX_INSPECTED:
            _INSPECTED.clear()
        arguments = [name for name in function.arg_names if name not in constants]
        _INSPECTED[key] = resources_of(_compile(source, target, options), target, arguments)
    return _INSPECTED[key]


def _source(function: Any, signature: Mapping[str, str], constants: Mapping[str, Any]) -> ASTSource:
    names = function.arg_names
    if set(names) != signature.keys() | constants.keys():
        given = sorted(signature.keys() | constants.keys())
        raise ValueError(f"{function.__name__} takes {names}, but types are given for {given}")
    types = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = [["tt.divisibility", 16]]
    pointers = {(i,): aligned for i, name in enumerate(names) if types[name].startswith("*")}
    return ASTSource(function, types, dict(constants), pointers)


def _compile(source: ASTSource, target: str, options: dict[str, Any]) -> Any:
    device = GPUTarget("cuda", capability(target), 32)
    try:
        return triton.compile(source, target=device, options=options)
    except Exception as error:  # failures of passes and of the assembler have no common class
        raise DoesNotCompile(f"{source.name} for {target}: {error}") from error


def resources_of(kernel: Any, target: str, arguments: Sequence[str]) -> Resources:
    """Return the resources of a kernel that Triton compiled, with the names of its arguments."""
    cubin = next(path for name, path in kernel.metadata_group.items() if name.endswith(".cubin"))
    machine, code = read_cubin(str(cubin)), census(kernel.asm["ttgir"], arguments)
    matmuls = {kind: kernel.asm["ptx"].count(text) for kind, text in _MATMULS.items()}
    matmuls["fma"] = code.fma_dots
    return Resources(
        target=target,
        threads=32 * kernel.metadata.num_warps,
        registers=machine.registers,
        stack=machine.stack,
        spills=machine.spills,
        shared=kernel.metadata.shared,
        tensor_memory=getattr(kernel.metadata, "tmem_size", 0) or 0,
        matmuls={kind: count for kind, count in matmuls.items() if count},
        loads_before=code.loads_before,
        loads_inside=code.loads_inside,
        loaded_inside=code.loaded_inside,
        staged_inside=code.staged_inside,
        copies_inside=code.copies_inside,
        conversions_inside=code.conversions_inside,
    )


@dataclass(frozen=True)
class KernelCase:
    """A kernel to be compiled and judged. Arguments in `loaded_once` must be loaded only once.

    With `own_process` it is compiled in a process of its own: it might crash the compiler.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int = 4
    loaded_once: tuple[str, ...] = ()
    stages: int = 1
    cooperative: bool = False
    maxnreg: int | None = None
    own_process: bool = False

    def judge(self, target: str) -> VerdictRow:
        """Compile the kernel for one target and return the verdict.

        Multiply-adds may crash the compiler: another process compiles kernels that have them.
        """
        if self.own_process or not has_matrix_units(target):
            made = judge_in_subprocess(self, target)
            return made if isinstance(made, VerdictRow) else self._failed(target, made)
        return self.judge_here(target)

    def judge_here(self, target: str) -> VerdictRow:
        """Compile the kernel in this process and return the verdict."""
        options = (target, self.warps, self.stages, self.cooperative, self.maxnreg)
        try:
            found = inspect(self.function, self.signature, self.constants, *options)
        except DoesNotCompile as error:
            return self._failed(target, str(error))
        moved = found.loaded_inside + found.staged_inside
        again = ", ".join(name for name in self.loaded_once if name in moved)
        weights = (f"{again} again" if again else "resident") if self.loaded_once else ""
        return VerdictRow(self.name, target, found, weights, tuple(found.faults(self.loaded_once)))

    def _failed(self, target: str, why: str) -> VerdictRow:
        return VerdictRow(self.name, target, None, "", (f"does not compile: {why}",))


@dataclass(frozen=True)
class VerdictRow:
    """The verdict on one case for one target. Without faults it fits.

    `step` describes how a step is split over blocks and its predicted time, if there is one.
    """

    name: str
    target: str
    resources: Resources | None
    weights: str
    faults: tuple[str, ...]
    step: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the texts of the row in the table, one for each of `COLUMNS`."""
        verdict = "; ".join(self.faults) or "fits"
        if (r := self.resources) is None:
            return (self.name, self.target, *[""] * (len(COLUMNS) - 3), verdict)
        shared = f"{r.shared / 1024:.1f} / {r.shared_limit / 1024:.0f}"
        matmuls = ", ".join(f"{count} {kind}" for kind, count in r.matmuls.items())
        counts = map(str, (r.registers, r.stack, r.spills))
        return (
            self.name,
            self.target,
            *counts,
            shared,
            matmuls,
            self.weights,
            self.step,
            verdict,
        )


COLUMNS = (
    "kernel",
    "target",
    "regs",
    "stack",
    "spills",
    "shared kB",
    "matmuls",
    "weights",
    "step",
    "verdict",
)


def table(cases: Sequence[KernelCase], targets: Sequence[str] = TARGETS) -> list[VerdictRow]:
    """Return a row for each case and target."""
    return [case.judge(target) for case in cases for target in targets]


def render(rows: Sequence[VerdictRow]) -> Table:
    """Return the rows as a table for `rich.print`."""
    rendered = Table(*COLUMNS)
    for row in rows:
        rendered.add_row(*map(Text, row.cells()), style="red" if row.faults else None)
    return rendered


def main(cases: Sequence[KernelCase], arguments: Sequence[str] | None = None) -> int:
    """Run as a command over `cases`: print the table, and return 1 if there is any fault."""
    parser = argparse.ArgumentParser(description="Compile kernels for absent GPUs")
    parser.add_argument(
        "--target", action="append", choices=list(KNOWN_TARGETS), help="may be repeated"
    )
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    options = parser.parse_args(arguments)
    rows = table(cases, options.target or TARGETS)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console().print(render(rows))
    return int(any(row.faults for row in rows))
