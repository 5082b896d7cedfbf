"""Whether a kernel is feasible on a GPU that is not there: compiled ahead of time, then read.

`inspect` gives one kernel's resources on one target, `table` those of many cases, and `main` is a
command that fails where any case spills, asks too much of the target or reloads its weights.
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

from .compile_process import apart
from .limits import SHARED, TENSOR_MEMORY, register_cap
from .sass import assembled
from .ttgir import census

TARGETS = tuple(SHARED)
# the matrix instructions of Ampere, Hopper and Blackwell, as they are written in PTX
_PRODUCTS = {"mma": "mma.sync", "wgmma": "wgmma.mma_async", "tcgen05": "tcgen05.mma"}
_INSPECTED: dict[tuple[str, str, tuple[tuple[str, Any], ...]], Resources] = {}
# kernels that are remembered at most
INSPECTED = 1024


class DoesNotCompile(RuntimeError):
    """Triton, or the assembler, refuses a kernel."""


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes of its target. Sizes are in bytes, shared memory is a block's.

    `products` counts matrix instructions by kind, and under "fma" the dots that got none. The
    arguments in `loaded_inside` are loaded inside a loop, the values of those in `staged_inside`
    copied to shared memory there.
    """

    target: str
    threads: int
    registers: int
    stack: int
    spills: int
    shared: int
    tensor_memory: int
    products: Mapping[str, int]
    loads_before: int
    loads_inside: int
    loaded_inside: tuple[str, ...]
    staged_inside: tuple[str, ...]
    copies_inside: int
    conversions_inside: int

    @property
    def shared_limit(self) -> int:
        """The most shared memory that a block may have on this target."""
        return SHARED[self.target]

    def faults(self, resident: Sequence[str] = ()) -> list[str]:
        """What makes the kernel unfit, in sentences; `resident` are arguments to be loaded once."""
        found = []
        if self.spills or self.stack:
            found.append(f"spills: {self.spills} instructions, {self.stack} bytes a thread")
        if self.registers >= register_cap(self.threads):
            found.append(f"all {self.registers} registers that a thread may have are taken")
        if self.shared > self.shared_limit:
            found.append(f"shared memory: {self.shared:,} bytes of {self.shared_limit:,}")
        if self.tensor_memory > TENSOR_MEMORY:
            found.append(f"tensor memory: {self.tensor_memory} columns of {TENSOR_MEMORY}")
        again = [name for name in resident if name in self.loaded_inside]
        found += [f"{name} is loaded again inside the loop" for name in again]
        staged = [name for name in resident if name in self.staged_inside and name not in again]
        return found + [f"{name} goes to shared memory again inside the loop" for name in staged]


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
    """Compile a `@triton.jit` function for `target`, with no GPU, and read what it takes.

    `signature` gives the types of the arguments ("*bf16", "i32"), `constants` the constexprs.
    Pointers are taken to be divisible by 16 bytes. About a second; the same call again is free.

    `maxnreg=register_cap(32 * warps)` is worth a try where a few instructions spill: the assembler
    may have stopped at 128 registers (sm_100, Triton 3.9, a GRU of 128 units and 64 rows: 4 spills;
    183 registers and none with it). Not always: near the cap it makes as many spills as it cures.
    """
    if target not in SHARED:
        raise ValueError(f"target {target!r} is none of {', '.join(TARGETS)}")
    if not isinstance(function, JITFunction):
        raise TypeError(f"{function!r} is not compiled by @triton.jit (is TRITON_INTERPRET set?)")
    options = {
        "num_warps": warps,
        "num_stages": stages,
        "launch_cooperative_grid": cooperative,
        "maxnreg": maxnreg,
        "enable_fp_fusion": True,  # Triton 3.9 warns where it is left unsaid
    }
    source = _source(function, signature, constants)
    key = (source.hash(), target, tuple(options.items()))
    if key not in _INSPECTED:
        if len(_INSPECTED) >= INSPECTED:
            _INSPECTED.clear()
        arguments = [name for name in function.arg_names if name not in constants]
        _INSPECTED[key] = _read(_compile(source, target, options), target, arguments)
    return _INSPECTED[key]


def _source(function: Any, signature: Mapping[str, str], constants: Mapping[str, Any]) -> ASTSource:
    names = function.arg_names
    if set(names) != signature.keys() | constants.keys():
        given = sorted(signature.keys() | constants.keys())
        raise ValueError(f"{function.__name__} takes {names}, and {given} are described")
    types = {name: "constexpr" if name in constants else signature[name] for name in names}
    aligned = [["tt.divisibility", 16]]
    pointers = {(i,): aligned for i, name in enumerate(names) if types[name].startswith("*")}
    return ASTSource(function, types, dict(constants), pointers)


def _compile(source: ASTSource, target: str, options: dict[str, Any]) -> Any:
    device = GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    try:
        return triton.compile(source, target=device, options=options)
    except Exception as error:  # assertions, pass failures and the assembler's have no common class
        raise DoesNotCompile(f"{source.name} for {target}: {error}") from error


def _read(kernel: Any, target: str, arguments: Sequence[str]) -> Resources:
    cubin = next(path for name, path in kernel.metadata_group.items() if name.endswith(".cubin"))
    machine, code = assembled(str(cubin)), census(kernel.asm["ttgir"], arguments)
    products = {kind: kernel.asm["ptx"].count(text) for kind, text in _PRODUCTS.items()}
    products["fma"] = code.fma_dots
    return Resources(
        target=target,
        threads=32 * kernel.metadata.num_warps,
        registers=machine.registers,
        stack=machine.stack,
        spills=machine.spills,
        shared=kernel.metadata.shared,
        tensor_memory=getattr(kernel.metadata, "tmem_size", 0) or 0,
        products={kind: count for kind, count in products.items() if count},
        loads_before=code.loads_before,
        loads_inside=code.loads_inside,
        loaded_inside=code.loaded_inside,
        staged_inside=code.staged_inside,
        copies_inside=code.copies_inside,
        conversions_inside=code.conversions_inside,
    )


@dataclass(frozen=True)
class Case:
    """A kernel to be judged: `resident` names the arguments that must be loaded only once.

    Those that may bring down the compiler are compiled `apart`, in a process of their own.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int = 4
    resident: tuple[str, ...] = ()
    stages: int = 1
    cooperative: bool = False
    maxnreg: int | None = None
    apart: bool = False

    def judge(self, target: str) -> Row:
        """Compile for one target, and say what is wrong."""
        if self.apart:
            made = apart(self, target)
            return made if isinstance(made, Row) else self._failed(target, made)
        options = (target, self.warps, self.stages, self.cooperative, self.maxnreg)
        try:
            found = inspect(self.function, self.signature, self.constants, *options)
        except DoesNotCompile as error:
            return self._failed(target, str(error))
        moved = found.loaded_inside + found.staged_inside
        again = ", ".join(name for name in self.resident if name in moved)
        weights = (f"{again} again" if again else "resident") if self.resident else ""
        return Row(self.name, target, found, weights, tuple(found.faults(self.resident)))

    def _failed(self, target: str, why: str) -> Row:
        return Row(self.name, target, None, "", (f"does not compile: {why}",))


@dataclass(frozen=True)
class Row:
    """The verdict on one case for one target: no faults, it fits.

    `step` says how a step is shared and how long it should take, where that was foretold.
    """

    name: str
    target: str
    resources: Resources | None
    weights: str
    faults: tuple[str, ...]
    step: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row as it is shown, a text for each of `COLUMNS`."""
        verdict = "; ".join(self.faults) or "fits"
        if (r := self.resources) is None:
            return (self.name, self.target, *[""] * (len(COLUMNS) - 3), verdict)
        shared = f"{r.shared / 1024:.1f} / {r.shared_limit / 1024:.0f}"
        products = ", ".join(f"{count} {kind}" for kind, count in r.products.items())
        numbers = map(str, (r.registers, r.stack, r.spills))
        return (
            self.name,
            self.target,
            *numbers,
            shared,
            products,
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
    "products",
    "weights",
    "a step",
    "verdict",
)


def table(cases: Sequence[Case], targets: Sequence[str] = TARGETS) -> list[Row]:
    """A row for every case and target."""
    return [case.judge(target) for case in cases for target in targets]


def render(rows: Sequence[Row]) -> Table:
    """The rows as a table for `rich.print`."""
    shown = Table(*COLUMNS)
    for row in rows:
        shown.add_row(*map(Text, row.cells()), style="red" if row.faults else None)
    return shown


def main(cases: Sequence[Case], arguments: Sequence[str] | None = None) -> int:
    """A command over `cases`: shows the table, and gives 1 where there is any fault."""
    parser = argparse.ArgumentParser(description="Kernels compiled for GPUs that are not there")
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    parser.add_argument("--json", action="store_true", help="rows as JSON instead of a table")
    chosen = parser.parse_args(arguments)
    rows = table(cases, chosen.target or TARGETS)
    if chosen.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        Console().print(render(rows))
    return int(any(row.faults for row in rows))
