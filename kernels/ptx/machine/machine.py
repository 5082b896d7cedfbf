"""One launch of a program: its memory, parameters and blocks, and where faults are told from."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arithmetic.approximate import Errors
from ..arithmetic.formats import DTYPES
from ..arithmetic.products import Adder
from ..instructions.memory import smallest_access
from ..program.locations import Describe, described
from ..program.program import Instruction, Program
from ..program.report import MAX_FINDINGS, Finding, Problem, PtxFault, Report
from .control import Control
from .memory import Memory, Span
from .order import Order
from .thread_block import ThreadBlock

Grid = tuple[int, int, int]
# statements after which a launch is given up
LIMIT = 2_000_000_000


@dataclass(frozen=True)
class Launch:
    """What is executed, and how; see `ptx.run`."""

    program: Program
    grid: Grid
    arguments: Sequence[Any]
    shared: int
    cooperative: bool = False
    seed: int = 0
    ulps: str = "exact"
    adder: Adder | None = None
    limit: int = LIMIT
    describe: Describe | None = None
    names: Sequence[str] = ()

    @property
    def count(self) -> int:
        """The number of thread blocks."""
        return math.prod(self.grid)


class Machine:
    """What the blocks of a launch share; `changed` becomes true when memory is written."""

    def __init__(self, launch: Launch):
        program = launch.program
        self.launch, self.program, self.grid = launch, program, launch.grid
        self.shared, self.adder, self.limit = launch.shared, launch.adder, launch.limit
        self.errors = Errors(launch.ulps, launch.seed)
        self.order = Order(
            launch.count, program.threads // 32, launch.cooperative, smallest_access(program)
        )
        self.fenced = any(i.opcode == "wgmma" for i in program.instructions)
        self.report = Report()
        self.changed, self.steps = False, 0
        self._running: dict[int, ThreadBlock] = {}
        # whether it was reported that products of TF32 cut their operands
        self.trimmed = False
        self.executed = np.zeros(len(program.blocks), np.int64).tolist()
        # the program's own data, in memory of this launch
        self._data = {name: x.copy() for name, x in program.constants.items()}
        spans = [_constant_span(name, x) for name, x in self._data.items()]
        for k, value in enumerate(launch.arguments):
            if hasattr(value, "data_ptr"):
                if value.device.type != "cpu":
                    raise ValueError(f"{self._name(k)} is on {value.device}; PTX runs on the CPU")
                spans.append(_tensor_span(value, self._name(k)))
        self.memory = Memory(spans)
        self.constants = {n: self.memory.address(x.ctypes.data) for n, x in self._data.items()}
        self.parameters = self._bound(launch.arguments)

    @functools.cached_property
    def largest(self) -> float:
        """The largest finite magnitude among the floating arguments, when it is first needed."""
        tensors = (x for x in self.launch.arguments if hasattr(x, "data_ptr"))
        floating = (x.detach().double() for x in tensors if x.is_floating_point() and x.numel())
        return max((float(x.abs().nan_to_num(0.0, 0.0, 0.0).max()) for x in floating), default=0.0)

    def _bound(self, arguments: Sequence[Any]) -> dict[str, int]:
        """Return the bits of each parameter.

        Parameters without an argument are 0: Triton adds pointers to scratch memory of no bytes.
        """
        listed = self.program.parameters
        if len(arguments) > len(listed):
            raise ValueError(
                f"{self.program.name} takes {len(listed)} arguments, and got {len(arguments)}"
            )
        parameters = {parameter.name: 0 for parameter in listed}
        for parameter, value in zip(listed, arguments):
            if hasattr(value, "data_ptr"):
                value = self.memory.address(value.data_ptr())
            parameters[parameter.name] = _bits(value, parameter.type)
        return parameters

    def _name(self, k: int) -> str:
        names = self.launch.names
        return f"'{names[k]}'" if k < len(names) else f"argument {k}"

    def block(self, number: int) -> Iterator[int]:
        """Run one block to its end; yields where others may go on. Raises PtxFault."""
        x, y, _ = self.grid
        index = number % x, number // x % y, number // (x * y)
        block = self._running[number] = ThreadBlock(self, index, number)
        try:
            yield from Control(block).run()
        except Problem as problem:
            raise self.fault(str(problem), block, problem.lane) from problem
        del self._running[number]

    def stuck(self, number: int, text: str) -> PtxFault:
        """Return the fault of a block that waits for another one."""
        block = self._running[number]
        block.now = block.polled
        return self.fault(text, block, None)

    def fault(self, text: str, block: ThreadBlock, lane: int | None) -> PtxFault:
        """Return the fault at the statement that a block is executing."""
        at = self.program.by_number.get(block.now)
        where = f"block {block.index}" + ("" if lane is None else f", thread {lane}")
        return PtxFault(
            f"{self.program.name}, {where}: {text}{self._place(at)}",
            at.text if at else None,
            at.loc if at else (),
            block.index,
            lane,
        )

    def _place(self, at: Instruction | None) -> str:
        if at is None:
            return ""
        return f"\n  statement:  {at}{described(at.loc, self.launch.describe)}"

    def found(self, findings: list[Finding], text: str, block: ThreadBlock) -> None:
        """Add a finding at the statement that a block is executing, unless there is one like it."""
        at = self.program.by_number.get(block.now)
        statement = at.text if at else ""
        new = all((f.statement, f.kind) != (statement, kind_of(text)) for f in findings)
        if new and len(findings) < MAX_FINDINGS:
            full = f"{self.program.name}, block {block.index}: {text}{self._place(at)}"
            findings.append(Finding(full, statement, at.loc if at else (), kind_of(text)))

    def finish(self) -> Report:
        """Return the report, with what was executed."""
        report, counts = self.report, self.report.counts
        for basic, times in zip(self.program.blocks, self.executed):
            for instruction in [*basic.body, *([basic.end] if basic.end else [])] if times else ():
                counts[instruction.name] = counts.get(instruction.name, 0) + times
        report.statements = self.steps
        report.blocks = self.launch.count
        return report


def kind_of(text: str) -> str:
    """Return a finding's text without its numbers: findings of one kind are reported once."""
    return "".join(x for x in text if not x.isdigit())


# the types of floats, by torch's names
_FLOATS = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def _tensor_span(tensor: Any, name: str) -> Span:
    """Return the memory that a tensor reaches, strided ones too."""
    size = int(tensor.element_size())
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride()))
    count = (last + 1) * size if tensor.numel() else 0
    kind = _FLOATS.get(str(tensor.dtype).removeprefix("torch."), "")
    return Span(int(tensor.data_ptr()), count, size, name, kind)


def _constant_span(name: str, x: NDArray[Any]) -> Span:
    return Span(x.ctypes.data, x.nbytes, x.itemsize, name)


def _bits(value: Any, kind: str) -> int:
    """Return the bits of an argument, as a parameter of this type."""
    size = np.dtype(DTYPES[kind]).itemsize
    if isinstance(value, float):
        return int(np.array([value], f"f{size}").view(f"u{size}")[0])
    return int(value) & ((1 << 8 * size) - 1)
