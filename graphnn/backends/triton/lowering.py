"""Which loops become kernels, and the lines that call them in the generated torch code."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphnn.backends.torch.scope import Scope, size_name
from graphnn.backends.triton.lower import lower
from graphnn.kernels.emit import emit
from graphnn.kernels.launch import Launcher
from graphnn.kernels.program import Refused
from graphnn.planner.partition import Loop


@dataclass
class Lowering:
    """Turns loops into kernels where they can be; `refused` has the reason where not.

    `interpret` runs them by Triton's interpreter on the CPU.
    """

    interpret: bool
    launchers: dict[str, Launcher] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def write(self, scope: Scope, loop: Loop, keep: set[int], name: str) -> list[str] | None:
        """The lines that run a loop as one kernel; None where no kernel can carry it."""
        ir = scope.ir
        kept = [i for i in loop.nodes if i in keep]
        try:
            program, reads = lower(ir, loop, kept, name)
            source = emit(program)
        except Refused as reason:
            self.refused[name] = str(reason)
            return None
        launcher = Launcher(source, self.interpret)
        self.launchers[name] = launcher
        called = scope.object(launcher, f"{name}_kernel")
        results = [scope.declare(ir[i]) for i in kept]
        tensors = ", ".join(scope.var(i) for i in reads)
        sizes = ", ".join(f"{a!r}: {size_name(a)}" for a in source.sizes)
        targets = ", ".join(results) + ("," if len(results) == 1 else "")
        return [f"{targets} = {called}([{tensors}], {{{sizes}}}, dtype)"]
