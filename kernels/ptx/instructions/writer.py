"""Writes the Python function of a basic block: numpy operations on all threads of a block at once.

A register is an array with one entry per thread. Arrays are never changed in place, so a register
may share the array of another. In the function, `S` is the thread block, `r` the list of its
registers and `m` the mask of the threads that execute it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arithmetic.formats import BITS, DTYPES
from ..program.program import Address, BasicBlock, Instruction, Program, Vector
from ..program.report import Problem

SIZES = {name: np.dtype(dtype).itemsize for name, dtype in DTYPES.items()}
_SPECIAL = re.compile(
    r"%(?:tid|ntid|ctaid|nctaid)\.[xyz]|%(?:laneid|warpid|nwarpid|smid|nsmid|gridid)"
    r"|%lanemask_(?:eq|le|lt|ge|gt)|%(?:clock|clock64|globaltimer)(?:_lo|_hi)?"
)
_VOLATILE = ("%clock", "%globaltimer")
_HEX_FLOATS = {"0f": (np.uint32, np.float32), "0d": (np.uint64, np.float64)}

Emit = Callable[["Writer", Instruction], None]


@dataclass(frozen=True)
class Row:
    """One form of an instruction: its types, the other modifiers that it may have, its text."""

    types: frozenset[str]
    modifiers: frozenset[str]
    emit: Emit


def types_of(instruction: Instruction) -> list[str]:
    """Return the modifiers of an instruction that are types."""
    return [m for m in instruction.modifiers if m in DTYPES]


class Writer:
    """The function of one basic block; `masked`: of some threads of a thread block only."""

    def __init__(self, program: Program, block: BasicBlock, masked: bool):
        self.program, self.block, self.masked = program, block, masked
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"where": np.where}
        self.guard = "m" if masked else ""
        # the names of scalars
        self.scalars: set[str] = set()
        self._known: dict[tuple[str, str], str] = {}
        self._fresh = 0

    def source(self, rows: dict[str, Sequence[Row]]) -> str:
        """Return the text of the function.

        Raises Problem, with the instruction, for what the rows do not have.
        """
        for instruction in self.block.body:
            self.guard = "m" if self.masked else ""
            try:
                row = find(rows, instruction)
                if instruction.guard:
                    self.guard = self._guarded(instruction)
                row.emit(self, instruction)
            except Problem as problem:
                problem.instruction = instruction
                raise
            except (IndexError, KeyError, ValueError, StopIteration) as error:
                text = f"has a form that is not modelled ({type(error).__name__}: {error})"
                raise Problem(text, instruction=instruction) from error
        body = "".join(f"    {line}\n" for line in self.lines)
        return f"def block(S, r, m):\n{body or '    pass'}\n"

    def _guarded(self, instruction: Instruction) -> str:
        p = self.read(("!" if instruction.negated else "") + instruction.guard, "pred")
        return self.let(f"{p} & m") if self.masked else p

    # values

    def let(self, expression: str) -> str:
        """Give an expression a name."""
        self._fresh += 1
        self.lines.append(f"x{self._fresh} = {expression}")
        return f"x{self._fresh}"

    def constant(self, value: Any) -> str:
        """Return the name of an object that the function uses."""
        name = getattr(value, "__name__", "")
        if not name.isidentifier() or self.names.get(name, value) is not value:
            name = f"k{len(self.names)}"
        self.names[name] = value
        return name

    def read(self, operand: str, kind: str) -> str:
        """Return the name of an operand as numbers of a type: an array, or a numpy scalar."""
        if operand.startswith("!"):
            return self.let(f"~{self.read(operand[1:], kind)}")
        known = self._known.get((operand, kind))
        if known:
            return known
        name = self._named(operand, kind)
        if not operand.startswith(_VOLATILE):
            self._known[operand, kind] = name
        return name

    def _named(self, operand: str, kind: str) -> str:
        program = self.program
        dtype = self.constant(DTYPES[kind])
        if operand in program.slots:
            return self.let(self._register(operand, kind))
        if _SPECIAL.fullmatch(operand):
            return self.let(f"S.special({operand!r}).astype({dtype})")
        if operand in program.shared:
            return self.let(f"S.full(S.shared_begin, {dtype})")
        if operand in program.local:
            return self.let(f"S.full({program.local[operand]}, {dtype})")
        if operand in program.constants:
            return self.let(f"S.full(S.constants[{operand!r}], {dtype})")
        value = immediate(operand, kind)
        if value is None:
            raise Problem(f"has the operand {operand}, which is not modelled")
        name = self.constant(value)
        self.scalars.add(name)
        return name

    def _register(self, operand: str, kind: str) -> str:
        slot, own = self.program.slots[operand], self.program.registers[operand]
        if (own == "pred") != (kind == "pred"):
            raise Problem(f"reads {operand}, a {own}, as a {kind}")
        if own == "pred":
            return f"r[{slot}]"
        dtype = self.constant(DTYPES[kind])
        if SIZES[own] == SIZES[kind]:
            return f"r[{slot}].view({dtype})"
        if SIZES[own] < SIZES[kind]:
            raise Problem(f"reads {operand}, a {own}, as a {kind}")
        wide, narrow = (self.constant(BITS[SIZES[x]]) for x in (own, kind))
        return f"r[{slot}].view({wide}).astype({narrow}).view({dtype})"

    def array(self, operand: str, kind: str) -> str:
        """Return the name of an operand as an array, an immediate one too."""
        name = self.read(operand, kind)
        if name not in self.scalars:
            return name
        key = f"{operand}, for all threads", kind
        if key not in self._known:
            value = self.names[name]
            self._known[key] = self.constant(np.full(self.program.threads, value, DTYPES[kind]))
        return self._known[key]

    def arrays(self, operands: Sequence[str], kind: str) -> str:
        """Return a list of operands as text."""
        return "[" + ", ".join(self.array(x, kind) for x in operands) + "]"

    def literal(self, operand: str) -> int:
        """Return an operand that must be an immediate integer."""
        value = immediate(operand, "s64")
        if value is None:
            raise Problem(f"has the operand {operand}, where only an immediate is modelled")
        return int(value)

    def address(self, operand: Any, small: bool) -> str:
        """Return the arguments that say where an address is: an array and an offset."""
        if not isinstance(operand, Address):
            raise Problem(f"has the operand {operand} instead of an address")
        return f"{self.array(operand.base, 'u32' if small else 'u64')}, {operand.offset}"

    # results

    def write(self, register: str, kind: str, expression: str) -> None:
        """Write a register, for the threads that the guard lets through."""
        if register == "_":
            return
        if register not in self.program.slots:
            raise Problem(f"writes {register}, which is no register")
        slot, own = self.program.slots[register], self.program.registers[register]
        if (own == "pred") != (kind == "pred") or SIZES[own] < SIZES[kind]:
            raise Problem(f"writes a {kind} to {register}, a {own}")
        name = self.let(expression)
        if SIZES[own] > SIZES[kind]:
            kind = ("s" if kind[0] == "s" else "u") + str(8 * SIZES[own])
            name = self.let(f"{name}.astype({self.constant(DTYPES[kind])})")
        if self.guard:
            view = "" if own == "pred" else f".view({self.constant(DTYPES[kind])})"
            name = self.let(f"where({self.guard}, {name}, r[{slot}]{view})")
        self.lines.append(f"r[{slot}] = {name}")
        self._known = {key: x for key, x in self._known.items() if key[0] != register}
        self._known[register, kind] = name

    def now(self, instruction: Instruction) -> None:
        """Note which statement is executed, for faults and findings."""
        self.lines.append(f"S.now = {instruction.number}")

    @property
    def mask(self) -> str:
        """The name of the mask of threads that execute a statement, or None for all."""
        return self.guard or "None"


def find(rows: dict[str, Sequence[Row]], instruction: Instruction) -> Row:
    """Return the row of an instruction. Raises Problem if there is none."""
    if instruction.opcode not in rows:
        raise Problem("has an instruction that is not modelled")
    kinds = types_of(instruction)
    kind = kinds[-1] if kinds else ""
    fitting = [row for row in rows[instruction.opcode] if kind in row.types]
    if not fitting:
        raise Problem(f"has the type .{kind}, which is not modelled for {instruction.opcode}")
    given = set(instruction.modifiers) - set(kinds)
    for row in fitting:
        if given <= row.modifiers:
            return row
    most = max(fitting, key=lambda row: len(given & row.modifiers))
    wrong = sorted(given - most.modifiers)
    raise Problem(f"has the modifier .{wrong[0]}, which is not modelled for {instruction.opcode}")


def immediate(text: str, kind: str) -> Any:
    """Return an immediate as a numpy scalar of a type, or None if the text is none."""
    dtype = np.dtype(DTYPES[kind])
    prefix = text[:2].lower()
    if prefix in _HEX_FLOATS and re.fullmatch(r"0[fFdD][0-9a-fA-F]+", text):
        unsigned, floating = _HEX_FLOATS[prefix]
        number = unsigned(int(text[2:], 16))
        if dtype.itemsize == number.itemsize:
            return number.view(dtype)
        return number.view(floating).astype(dtype)
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?", text):
        value = int(text.rstrip("U"), 0)
        if dtype.kind == "b":
            return np.bool_(value)
        pattern = value & ((1 << 8 * dtype.itemsize) - 1)
        return np.array([pattern], np.dtype(f"u{dtype.itemsize}")).view(dtype)[0]
    if dtype.kind == "f" and re.fullmatch(r"-?\d+\.\d*(?:[eE][-+]?\d+)?", text):
        return dtype.type(float(text))
    if text == "WARP_SZ":
        return dtype.type(32)
    return None


def pair(operand: str) -> tuple[str, str]:
    """Split a result `d|p` into its two registers; the second is "_" if there is one only."""
    first, _, second = operand.partition("|")
    return first, second or "_"


def vector(operand: Any) -> tuple[str, ...]:
    """Return the parts of a vector, or of an operand that is none."""
    return tuple(operand) if isinstance(operand, Vector) else (operand,)
