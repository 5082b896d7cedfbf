"""The block axis: an axis that every step reads in full. Its positions are the tile rows of one
thread block.

A block then has one example. A value that does not vary over the positions has one row. It is
repeated 16 times to be multiplied by weights, as matrix products have at least 16 rows.
"""

from __future__ import annotations

import math

from ..ir.program import LoopProgram, Op

# rows in a matrix product whose left operand is one row, repeated
MIN_MATMUL_ROWS = 16
# elements of a position in one tile, in a sharded program
MAX_ELEMENTS = 64
# functions of the prelude whose result differs from position to position
PER_POSITION = frozenset({"softmax", "roll", "flip", "topk_mask"})


def wide(program: LoopProgram) -> frozenset[str]:
    """The values that fill the rows of tiles: all, or those that vary over a block axis."""
    if not program.block_axis:
        return frozenset(op.name for op in program.ops)
    found: set[str] = set()
    while True:
        before = len(found)
        found |= {op.name for op in program.ops if _varies(program, op, found)}
        if len(found) == before:
            return frozenset(found)


def _varies(program: LoopProgram, op: Op, found: set[str]) -> bool:
    """Whether a value varies over the block axis, given that those of `found` do."""
    if op.kind in ("read", "draw"):
        return program.block_axis in op.attrs["tensor"].axes or bool(found & set(op.args))
    if op.kind == "state":
        state = program.state(op.name)
        return bool(found & {state.next, *state.inits})
    if op.kind == "over_positions":
        return op.attrs["law"] in PER_POSITION
    return op.kind == "position" or bool(found & set(op.args))


def starts(program: LoopProgram) -> frozenset[str]:
    """The initial values of states, and all values that they are computed from."""
    made = {op.name: op.args for op in program.ops}
    found, stack = set[str](), [i for s in program.states for i in s.inits]
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack += made[name]
    return frozenset(found)


def heavy(program: LoopProgram, op: Op) -> bool:
    """Whether a loop-invariant value is loaded at each step, because it needs too many registers.

    It has several elements per position, or many of a block's own row. Initial values of states are
    not loaded again.
    """
    size = math.prod(op.shape)
    many = size > 1 and program.block_axis in op.attrs["tensor"].axes
    many |= size > MAX_ELEMENTS and op.attrs.get("own", False)
    return bool(program.block_axis) and many and op.name not in starts(program)


def padded_length(positions: int) -> int:
    """The rows of a tile that holds `positions` positions: a power of two, and at least 16."""
    return max(MIN_MATMUL_ROWS, 1 << (positions - 1).bit_length())
