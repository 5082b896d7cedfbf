"""The table of all instructions, and the functions that basic blocks become by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from ..program.program import Instruction, Program
from ..program.report import Problem
from . import arithmetic, carries, memory, warp
from .writer import Row, Writer

_TABLES = (arithmetic.ROWS, memory.ROWS, warp.ROWS, carries.ROWS)
ROWS: dict[str, Sequence[Row]] = {
    name: [row for table in _TABLES for row in table.get(name, ())]
    for name in chain.from_iterable(_TABLES)
}
# statements that end a basic block, beside barriers; their forms
ENDS = {"bra": {"uni"}, "ret": {"uni"}, "exit": set(), "trap": set()}
BARRIERS = {"sync", "cta", "aligned"}


def check(program: Program) -> None:
    """Raise Problem, with the instruction, if something in a program is not modelled."""
    for number, block in enumerate(program.blocks):
        writer = Writer(program, block, masked=False)
        program.sources[number, False] = writer.source(ROWS), writer.names
        if block.end is not None:
            _check_end(program, block.end)


def _check_end(program: Program, end: Instruction) -> None:
    if end.guard and end.guard not in program.slots:
        raise Problem(f"has the guard {end.guard}, which is no register", instruction=end)
    allowed = ENDS.get(end.opcode, BARRIERS)
    wrong = [m for m in end.modifiers if m not in allowed]
    if wrong:
        raise Problem(f"has the modifier .{wrong[0]}, which is not modelled", instruction=end)
    if end.opcode == "bra" and end.operands[0] not in program.labels:
        raise Problem(f"branches to {end.operands[0]}, which is no label", instruction=end)
    if end.opcode in ("bar", "barrier") and not all(isinstance(x, str) for x in end.operands):
        raise Problem("has operands that are not modelled", instruction=end)


def compiled(program: Program, number: int, masked: bool) -> Callable[..., None]:
    """Return the function of a basic block; `masked`: for some threads of a thread block only."""
    key = number, masked
    if key not in program.functions:
        if key not in program.sources:
            writer = Writer(program, program.blocks[number], masked)
            program.sources[key] = writer.source(ROWS), writer.names
        source, names = program.sources[key]
        exec(compile(source, f"<{program.name}, basic block {number}>", "exec"), names)
        program.functions[key] = names["block"]
    made: Callable[..., None] = program.functions[key]
    return made
