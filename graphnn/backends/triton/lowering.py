"""Which loops become kernels, and the lines that call them in the generated torch code."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from graphnn.backends.torch.scope import Scope, size_name
from graphnn.backends.triton.lower import lower, lower_phase
from graphnn.backends.triton.scans import scan
from graphnn.backends.triton.steps import Called, StepWriter
from graphnn.kernels.emit import emit
from graphnn.kernels.launch import Launcher
from graphnn.kernels.program import Refused
from graphnn.planner.partition import Loop, Whole


@dataclass
class Lowering:
    """Turns loops into kernels where they can be; `refused` has the reason where not.

    `interpret` runs them by Triton's interpreter on the CPU. Without `resident`, or where a loop
    cannot be one kernel, its steps are kernels.
    """

    interpret: bool
    resident: bool = True
    launchers: dict[str, Launcher] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def write(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[str] | None:
        """The lines that run a loop as one kernel; None where no kernel can carry it."""
        ir = scope.ir
        kept = [i for i in loop.nodes if i in keep]
        try:
            if not self.resident:
                raise Refused("it was switched off (skip 'resident')")
            program, reads = lower(ir, loop, kept, name)
            source = emit(program)
        except Refused as reason:
            self.refused[name] = str(reason)
            return self._stepwise(scope, loop, keep, name)
        launcher = Launcher(source, self.interpret)
        self.launchers[name] = launcher
        called = scope.object(launcher, f"{name}_kernel")
        results = [scope.declare(ir[i]) for i in kept]
        tensors = ", ".join(scope.var(i) for i in reads)
        sizes = ", ".join(f"{a!r}: {size_name(a)}" for a in source.sizes)
        targets = ", ".join(results) + ("," if len(results) == 1 else "")
        return [f"{targets} = {called}([{tensors}], {{{sizes}}}, dtype)"]

    def called(self) -> dict[str, Any]:
        """What generated code calls by another name here: the scans."""
        return {"scan": functools.partial(scan, interpret=self.interpret)}

    def _stepwise(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[str] | None:
        """One kernel a phase of each step; loops within loops stay with torch."""
        if loop.stop is not None or any(not isinstance(r, Whole) for r in loop.body):
            return None
        return StepWriter(scope, loop, keep, name, self).write()

    def phase(self, s: Scope, nodes: list[int], kept: list[int], name: str) -> Called | None:
        """The kernel of a phase: how it is called, what it reads, over which axes' lengths."""
        try:
            program, reads = lower_phase(s, nodes, kept, name)
            source = emit(program)
        except Refused as reason:
            self.refused[name] = str(reason)
            return None
        launcher = Launcher(source, self.interpret)
        self.launchers[name] = launcher
        return s.object(launcher, f"{name}_kernel"), reads, source.sizes
