"""A parsed kernel: its statements, in basic blocks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .locations import SourceLine


class Address(NamedTuple):
    """An operand in brackets: a register or a name, and an offset in bytes."""

    base: str
    offset: int


class Vector(tuple[str, ...]):
    """An operand in braces."""


@dataclass(frozen=True)
class Instruction:
    """One PTX statement; `span` is where its text lies in that of the program."""

    opcode: str
    modifiers: tuple[str, ...]
    # each a register, name, immediate or label; a Vector of them; or an Address
    operands: tuple[Any, ...]
    guard: str  # a predicate register, "" if none
    negated: bool
    text: str
    number: int
    line: int
    span: tuple[int, int]
    loc: tuple[SourceLine, ...]

    @functools.cached_property
    def name(self) -> str:
        """The opcode with its modifiers."""
        return ".".join((self.opcode, *self.modifiers))

    def __str__(self) -> str:
        return f"{self.text}  (PTX line {self.line})"


@dataclass
class BasicBlock:
    """Statements that are executed one after another; `end` is a branch, barrier or return.

    `polls`: it has one access of memory that may wait for another thread block.
    """

    label: str = ""
    body: list[Instruction] = field(default_factory=list)
    end: Instruction | None = None
    polls: bool = False

    @property
    def empty(self) -> bool:
        return not (self.body or self.end or self.label)


@dataclass(frozen=True)
class Parameter:
    """A parameter of the kernel, and its type."""

    name: str
    type: str


# the register of the carry of a sum: PTX does not declare it
CARRY = "%cc"
# where the local memory of each thread begins, so that address 0 is outside
LOCAL_BEGIN = 1024


@dataclass(eq=False)
class Program:
    """One kernel of a PTX text.

    `threads` is the number of threads per block, `registers` the declared type of each register,
    `constants` the initial values of variables in global or constant memory, `shared` the names of
    arrays in dynamic shared memory, `local` the addresses of arrays in local memory, which ends at
    `local_end`.
    """

    text: str
    name: str
    threads: int
    parameters: tuple[Parameter, ...]
    registers: dict[str, str]
    constants: dict[str, NDArray[Any]]
    shared: frozenset[str]
    local: dict[str, int]
    local_end: int
    blocks: list[BasicBlock]
    sources: dict[tuple[int, bool], Any] = field(default_factory=dict, repr=False)
    functions: dict[tuple[int, bool], Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.slots = {name: k for k, name in enumerate(self.registers)}
        self.labels = {b.label: k for k, b in enumerate(self.blocks) if b.label}

    @functools.cached_property
    def instructions(self) -> list[Instruction]:
        """All statements in their order; `.loc` is the source line of each."""
        return sorted(self._all(), key=lambda i: i.number)

    @functools.cached_property
    def by_number(self) -> dict[int, Instruction]:
        """All statements by their number."""
        return {i.number: i for i in self.instructions}

    @property
    def barriers(self) -> list[Instruction]:
        """The statements at which the threads of a block wait for each other."""
        return [i for i in self.instructions if is_barrier(i)]

    def _all(self) -> Iterator[Instruction]:
        for block in self.blocks:
            yield from block.body
            if block.end is not None and block.end.number >= 0:
                yield block.end

    def replaced(self, changes: dict[int, str]) -> str:
        """Return the text with statements replaced, by their number; "" leaves one out.

        A statement keeps its guard only if the new text has it.

            program = ptx.parse(program.replaced({program.barriers[0].number: ""}))
        """
        text = self.text
        for instruction in reversed(self.instructions):
            if instruction.number in changes:
                begin, end = instruction.span
                new = changes[instruction.number]
                text = text[:begin] + (f"{new};" if new else "") + text[end:]
        return text

    def without(self, *instructions: Instruction) -> str:
        """Return the text without some statements."""
        return self.replaced({i.number: "" for i in instructions})


def is_barrier(instruction: Instruction) -> bool:
    """Return whether a statement is a barrier of threads of a block; those of a warp are not."""
    return instruction.opcode in ("bar", "barrier") and "warp" not in instruction.modifiers
