"""Which values of a step a thread block computes for a row of its own, where blocks share a loop.

What takes all of an axis (attention, a memory's reads and writes) needs every number of one row
together: of a tile of rows each block then has one, its lanes as the rows of tiles. Products by
weights stay shared out by units; the two meet by exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...analysis.block_axis import wide
from ...analysis.matmul_form import WeightMatmul
from ...ir.program import LoopProgram, Op, Unsupported

# forms of a value: in every block, not shared out; of one row in its block. Others are periods by
# which it is shared out: among all blocks, or, below zero, among those of one row
WHOLE, OWN = 0, -1


def rowwise(
    program: LoopProgram, ops: Mapping[str, Op], dots: Mapping[str, WeightMatmul]
) -> frozenset[str]:
    """The values of which a block has its own row. Raises Unsupported where a weight meets lanes.

    They vary over the lanes, are made of all of them, or hang on such without a product by a
    weight between; `dots` are those products.
    """
    if not program.block_axis:
        return frozenset()
    varying = wide(replace(program, ops=tuple(ops.values())))
    found = {op.name for op in ops.values() if op.name in varying or op.kind == "over_positions"}
    for name, dot in dots.items():
        if dot.value in varying:
            raise Unsupported(
                f"'{ops[name].note or name}' multiplies each of {program.block_axis} by a weight"
            )
    while True:
        before = len(found)
        for op in ops.values():
            if op.name not in dots and any(a in found for a in op.args):
                found.add(op.name)
        for state in program.states:
            if state.next in found or found & set(state.inits):
                found.add(state.name)
        if len(found) == before:
            return frozenset(found)


def drawn(ops: Mapping[str, Op], own: frozenset[str], free: frozenset[str]) -> frozenset[str]:
    """`own`, and what of the `free` serves those alone: so many fewer numbers a block."""
    found = set(own)
    users: dict[str, set[str]] = {name: set() for name in ops}
    for op in ops.values():
        for arg in op.args:
            users[arg].add(op.name)
    for op in reversed(list(ops.values())):
        mine = op.kind in ("point", "view", "sum", "max") and op.name in free
        if mine and users[op.name] and users[op.name] <= found:
            found.add(op.name)
    return frozenset(found)
