"""What one execution did, what it found wrong, and the fault that ends it."""

from __future__ import annotations

from dataclasses import dataclass, field

from .locations import SourceLine
from .program import Instruction

# findings of one kind that a report keeps
MAX_FINDINGS = 50


class PtxFault(RuntimeError):
    """A kernel did something invalid, or contains something that cannot be executed.

    `statement` is the PTX statement, `source` the lines of the kernel that it comes from, the
    innermost call first. `block` is the index of the thread block, and `thread` that of its first
    thread at fault. They are None or empty if unknown.
    """

    def __init__(
        self,
        text: str,
        statement: str | None = None,
        source: tuple[SourceLine, ...] = (),
        block: tuple[int, int, int] | None = None,
        thread: int | None = None,
    ):
        super().__init__(text)
        self.statement, self.source = statement, source
        self.block, self.thread = block, thread


class Problem(Exception):
    """What is wrong, before it is known where.

    `lane` is the thread within its block. `instruction` is the statement if it is not the one
    being executed.
    """

    def __init__(self, text: str, lane: int | None = None, instruction: Instruction | None = None):
        super().__init__(text)
        self.lane, self.instruction = lane, instruction


@dataclass(frozen=True)
class Finding:
    """A race or a warning: what was found, at which PTX statement, and its lines of source.

    `kind` is the text without numbers: each kind is reported once per statement.
    """

    text: str
    statement: str
    source: tuple[SourceLine, ...]
    kind: str

    def __str__(self) -> str:
        return self.text


@dataclass
class Report:
    """What one execution did, and what it found wrong.

    `statements` counts executed PTX statements, one for all threads of a block at once; `counts`
    has them by opcode. `blocks` is the number of thread blocks, `seconds` the wall time.
    """

    races: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    statements: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    blocks: int = 0
    seconds: float = 0.0
