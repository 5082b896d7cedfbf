"""Checks every launch: the executor, the interpreter, and the interpreter in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import triton.language as tl

from graphnn.kernels.executors.executor import Executor, KernelLaunch
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.executors.ptx import node_of_line
from graphnn.kernels.interpreter.faults import format_line
from graphnn.kernels.ptx.program.locations import SourceLine
from graphnn.kernels.runtime.launch import DTYPE_NAMES
from graphnn.tools.verification.errors import ROUNDING, rounded, tensor_errors
from graphnn.tools.verification.observe import Observation, observed
from graphnn.tools.verification.poison import poison, same_bits, unwritten
from graphnn.tools.verification.rows import Fault, LaunchRow
from graphnn.tools.verification.source_lines import storing_line

Tensor = torch.Tensor
# constants of a kernel that change its precision, as the interpreter is given them in float64
IN_FLOAT64 = {"ACC": tl.float64, "PRECISION": "ieee", "UPCAST": False}
# how often the exact result is computed for rounded inputs
ROUNDED = 2
# faults of one kind that are kept per row
MAX_FAULTS = 5


class LaunchChecker:
    """Runs the launches of one executor, and compares each with the interpreter.

    It is a runner for `launches_run_by`. The model goes on with what the executor stored. If that
    fails, it goes on with what the interpreter stored. `told` is called with a row when it is new.
    """

    def __init__(self, executor: Executor, told: Callable[[LaunchRow], None] | None = None):
        self.executor, self.told = executor, told
        self.rows: dict[Any, LaunchRow] = {}
        # added to the names of kernels in rows: what distinguishes the call that launches them
        self.title = ""

    def __call__(self, executor: Executor, launch: KernelLaunch) -> None:
        if executor is not self.executor:
            executor.run(launch)
            return
        key, row = configuration(launch)
        row.kernel += self.title
        new = key not in self.rows
        row = self.rows.setdefault(key, row)
        if new and self.told is not None:
            self.told(row)
        row.runs += 1
        _Check(executor, launch, row).run()


def configuration(launch: KernelLaunch) -> tuple[Any, LaunchRow]:
    """Return a key that launches of the same kernel and configuration share, and an empty row."""
    tensors = [(tuple(x.shape), x.dtype) if torch.is_tensor(x) else x for x in launch.args]
    how = sorted((k, str(v)) for k, v in {**launch.constants, **launch.options}.items())
    key = launch.function, launch.grid, tuple(map(str, tensors)), tuple(how)
    tile = [str(launch.constants[k]) for k in ("ROWS", "COLS") if k in launch.constants]
    blocks = launch.grid[: max(1, sum(n > 1 for n in launch.grid))]
    return key, LaunchRow(
        launch.function.__name__,
        "×".join(tile),
        launch.options.get("num_warps", 0),
        "×".join(map(str, blocks)),
        dtype_of(launch),
    )


def dtype_of(launch: KernelLaunch) -> str:
    """Return the dtype of a launch: that of its narrowest floating tensor."""
    tensors = [x for k, x in enumerate(launch.args) if torch.is_tensor(x)]
    floating = [x.dtype for x in tensors if x.is_floating_point()]
    return DTYPE_NAMES[min(floating, key=lambda d: d.itemsize, default=torch.float32)]


class _Check:
    """One run of one launch."""

    def __init__(self, executor: Executor, launch: KernelLaunch, row: LaunchRow):
        self.executor, self.launch, self.row = executor, launch, row
        self.names = [launch.argument_names[k].removesuffix("_ptr") for k in launch.outputs]
        self.where = f"{row.kernel} ({row.launch}, {row.dtype}, {executor.name})"
        tf32 = row.dtype == "fp32" and launch.constants.get("PRECISION") == "tf32"
        self.precision = "tf32" if tf32 else row.dtype
        # what the interpreter is given: the arguments before the launch, on the CPU
        self.before = [x.cpu().clone() if torch.is_tensor(x) else x for x in launch.args]

    def run(self) -> None:
        try:
            # the interpreter's matmuls of 16 bits are wrong: it multiplies in float32
            baseline = self._interpreted(self.before, {"UPCAST": self.row.dtype != "fp64"})
            exact = self._exact(self.before)
        except Exception as error:
            self._add(raised(f"{self.where}, interpreted", error))
            self.executor.run(self.launch)
            return
        for k in [*self.launch.outputs, *self.launch.scratch]:
            if k in self.launch.outputs or self.launch.args[k].is_floating_point():
                poison(self.launch.args[k])
        try:
            seen = observed(self.executor, self.launch, self.row.resources)
        except Exception as error:
            self._add(raised(self.where, error))
            for k, x in zip(self.launch.outputs, baseline):
                self.launch.args[k].copy_(x)
            return
        self._note(seen)
        self._check_memory()
        self._compare(baseline, exact)

    def _interpreted(self, args: Sequence[Any], constants: dict[str, Any]) -> list[Tensor]:
        """Return the outputs that the interpreter stores, from copies of these arguments."""
        given = [x.clone() if torch.is_tensor(x) else x for x in args]
        known = {k: v for k, v in constants.items() if k in self.launch.constants}
        changed = {**self.launch.constants, **known}
        INTERPRETER.run(replace(self.launch, args=given, constants=changed, options={}))
        return [given[k] for k in self.launch.outputs]

    def _exact(self, args: Sequence[Any]) -> list[Tensor]:
        """Return the outputs in float64."""
        wide = [x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in args]
        return self._interpreted(wide, IN_FLOAT64)

    def _exact_if_rounded(self) -> list[list[Tensor]]:
        """Return the outputs in float64 for inputs that differ by a rounding, for a few draws."""
        generator, found = torch.Generator().manual_seed(0), []
        unit = ROUNDING[self.precision]
        kept = {*self.launch.outputs, *self.launch.scratch}
        for _ in range(ROUNDED):
            args = [
                rounded(x, unit, generator) if torch.is_tensor(x) and k not in kept else x
                for k, x in enumerate(self.before)
            ]
            found.append(self._exact(args))
        return found

    def _note(self, seen: Observation) -> None:
        """Add what the run showed to the row."""
        row = self.row
        row.resources = seen.resources or row.resources
        row.statements += seen.statements
        row.seconds += seen.seconds
        row.compile_seconds += seen.compile_seconds
        row.races += len(seen.races)
        for race in seen.races:
            source, node = located(race.source)
            text = f"race: {race.text.splitlines()[0]}"
            self._add(Fault(self.where, text, "", race.statement, source, node))
        r = seen.resources
        if r is not None and r.shared > r.shared_limit:
            text = f"{r.shared:,} bytes of shared memory; {r.target} has {r.shared_limit:,}"
            self._add(Fault(self.where, text))
        if r is not None and r.spill_fault and r.spill_fault not in row.notes:
            row.notes.append(r.spill_fault)

    def _check_memory(self) -> None:
        """Find inputs that changed, and outputs that were not written."""
        written = {*self.launch.outputs, *self.launch.scratch}
        for k, before in enumerate(self.before):
            if not torch.is_tensor(before):
                continue
            name, after = self.launch.argument_names[k], self.launch.args[k].cpu()
            if k not in written and not same_bits(before, after):
                self._add(Fault(self.where, "an input was overwritten", name))
            if k in self.launch.outputs and (left := unwritten(after)):
                text = f"{left} of {after.numel()} numbers were not written"
                self._add(self._located(name, Fault(self.where, text, name)))

    def _compare(self, baseline: Sequence[Tensor], exact: Sequence[Tensor]) -> None:
        """Compare what was stored with the interpreter."""
        got = [self.launch.args[k].cpu() for k in self.launch.outputs]
        found = tensor_errors(
            self.names, got, baseline, exact, self.precision, self._exact_if_rounded
        )
        for error, k in zip(found, self.launch.outputs):
            if error.fault:
                fault = Fault(self.where, error.fault, error.name)
                self._add(self._located(self.launch.argument_names[k], fault))
            if error.noise and (note := f"{error.name}: {error.noise}") not in self.row.notes:
                self.row.notes.append(note)
        self.row.worst = max([self.row.worst, *found], key=lambda x: x.severity)

    def _located(self, pointer: str, fault: Fault) -> Fault:
        """Return a fault with the line that stores through a pointer, and its node."""
        file = self.launch.function.fn.__code__.co_filename
        line = storing_line(file, pointer)
        if not line:
            return fault
        return replace(fault, source=format_line((file, line)), node=node_of_line(file, line))

    def _add(self, fault: Fault) -> None:
        if fault not in self.row.faults and len(self.row.faults) < MAX_FAULTS:
            self.row.faults.append(fault)


def raised(where: str, error: Exception) -> Fault:
    """Return what an executor raised as a fault."""
    statement = getattr(error, "statement", None) or ""
    text = f"{type(error).__name__}: {error}"
    if statement:  # the other lines have what follows
        text = text.splitlines()[0]
    source, node = located(getattr(error, "source", ()))
    return Fault(where, text, statement=statement, source=source, node=node)


def located(lines: Sequence[SourceLine]) -> tuple[str, str]:
    """Return the lines of a kernel that a PTX statement comes from as text, and the user's node."""
    nodes = (node_of_line(x.file, x.line) for x in lines)
    return "\n    called from ".join(map(str, lines)), next(filter(None, nodes), "")
