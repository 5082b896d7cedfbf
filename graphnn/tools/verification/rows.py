"""What a verification finds: rows for launches and for results, and faults."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphnn.kernels.feasibility.aot import Resources
from graphnn.tools.verification.errors import TensorError


@dataclass(frozen=True)
class Fault:
    """What is wrong with a kernel or a result, and where.

    `tensor` is the argument of the kernel that it stores, or the result of the model. `statement`
    is the PTX statement, `source` the line of the generated kernel, `node` the user's node with
    file and line. They are empty if unknown.
    """

    where: str
    text: str
    tensor: str = ""
    statement: str = ""
    source: str = ""
    node: str = ""

    def __str__(self) -> str:
        shown = {"statement": self.statement, "source": self.source, "node": self.node}
        lines = [f"  {name + ':':11}{text}" for name, text in shown.items() if text]
        subject = f"{self.tensor}: " if self.tensor else ""
        return "\n".join([f"{self.where}: {subject}{self.text}", *lines])


@dataclass
class LaunchRow:
    """All launches of one kernel with one configuration.

    `tile` is the rows of a program, or rows × columns, `blocks` the grid, `runs` how often it was
    run. `worst` is the error of the worst tensor of all runs; its baseline is Triton's interpreter
    in the same dtype. `resources` are None if nothing was compiled, `statements` 0 if no PTX was
    executed.
    """

    kernel: str
    tile: str
    warps: int
    blocks: str
    dtype: str
    runs: int = 0
    worst: TensorError = field(default_factory=lambda: TensorError(""))
    races: int = 0
    resources: Resources | None = None
    statements: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def launch(self) -> str:
        """The configuration as text."""
        parts = [f"{self.tile} rows" if self.tile else "", f"{self.warps} warps" * bool(self.warps)]
        return ", ".join(filter(None, [*parts, f"grid {self.blocks}"]))


@dataclass
class ResultRow:
    """The error of a result of the whole model: an output, a final state or a gradient.

    Its baseline is backend "torch" in the same dtype.
    """

    call: str
    error: TensorError
    faults: list[Fault] = field(default_factory=list)
