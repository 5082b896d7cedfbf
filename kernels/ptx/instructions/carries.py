"""Sums of 32 bits with the carry of the sum before (PTX ISA 9.1, section 9.7.2).

The carry is a register of its own, which only these instructions read and write.
"""

from __future__ import annotations

from ..arithmetic import integers
from ..program.program import CARRY, Instruction
from .writer import Row, Writer, types_of

_TYPES = frozenset({"u32", "s32"})


def carried(writer: Writer, instruction: Instruction) -> None:
    """`add.cc`, `addc`, `mad.cc` and `madc`: a sum, its carry if `.cc`, and the one before if `c`.

    The carry is that of the unsigned sum, also of signed numbers.
    """
    kind, flags = types_of(instruction)[-1], set(instruction.modifiers)
    d, *operands = instruction.operands
    if instruction.opcode.startswith("mad"):
        made = writer.constant(integers.mul_hi if "hi" in flags else integers.mul_lo)
        a, b = (writer.array(x, kind) for x in operands[:2])
        first, last = writer.let(f"{made}({a}, {b})"), operands[2]
    else:
        first, last = writer.array(operands[0], kind), operands[1]
    terms = [f"{x}.view('u4').astype('u8')" for x in (first, writer.array(last, kind))]
    if instruction.opcode.endswith("c"):
        terms.append(f"{writer.read(CARRY, 'pred')}.astype('u8')")
    total = writer.let(" + ".join(terms))
    writer.write(d, "u32", f"{total}.astype('u4')")
    if "cc" in flags:
        writer.write(CARRY, "pred", f"{total} > 0xFFFFFFFF")


_PARTS = frozenset({"lo", "hi", "cc"})
ROWS: dict[str, tuple[Row, ...]] = {
    "add": (Row(_TYPES, frozenset({"cc"}), carried),),
    "addc": (Row(_TYPES, frozenset({"cc"}), carried),),
    "mad": (Row(_TYPES, _PARTS, carried),),
    "madc": (Row(_TYPES, _PARTS, carried),),
}
