"""An axis of which a step takes all: its positions lie as the rows of tiles within one block.

A block then has one example; what does not vary over the lanes is one row, and is multiplied by
weights as sixteen equal ones, the least that a matrix product takes.
"""

from __future__ import annotations

import math

from ..ir.program import LoopProgram, Op

# rows of a product of what is one row
EQUAL = 16
# numbers of a lane in one tile, where a step takes all of an axis beside shared products
PIECE = 64
# laws whose result differs from lane to lane
KEPT = frozenset({"softmax", "moved", "turned", "best"})


def wide(program: LoopProgram) -> frozenset[str]:
    """The values that fill a tile's rows: all, or those that vary over the lanes."""
    if not program.block_axis:
        return frozenset(op.name for op in program.ops)
    found: set[str] = set()
    while True:
        before = len(found)
        found |= {op.name for op in program.ops if _varies(program, op, found)}
        if len(found) == before:
            return frozenset(found)


def _varies(program: LoopProgram, op: Op, found: set[str]) -> bool:
    """Whether a value varies over the lanes, as far as `found` has it."""
    if op.kind in ("read", "draw"):
        return program.block_axis in op.attrs["tensor"].axes or bool(found & set(op.args))
    if op.kind == "state":
        state = program.state(op.name)
        return bool(found & {state.next, *state.inits})
    if op.kind == "over_positions":
        return op.attrs["law"] in KEPT
    return op.kind == "position" or bool(found & set(op.args))


def starts(program: LoopProgram) -> frozenset[str]:
    """The values that states start from, and what those are made of."""
    made = {op.name: op.args for op in program.ops}
    found, stack = set[str](), [i for s in program.states for i in s.inits]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += made[name]
    return frozenset(found)


def heavy(program: LoopProgram, op: Op) -> bool:
    """Whether a value that all steps read is loaded at each: numbers of each lane, of which there
    would be too many for registers, or as many of a block's own row. What states start from is not.
    """
    size = math.prod(op.shape)
    many = size > 1 and program.block_axis in op.attrs["tensor"].axes
    many |= size > PIECE and op.attrs.get("own", False)
    return bool(program.block_axis) and many and op.name not in starts(program)


def padded_length(positions: int) -> int:
    """The rows of a tile that holds so many lanes."""
    return max(EQUAL, 1 << (positions - 1).bit_length())
