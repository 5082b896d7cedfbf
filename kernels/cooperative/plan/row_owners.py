"""Which values of a sharded loop a thread block computes for a row of its own.

An operation over a block axis (attention, reads and writes of a memory) needs every element of a
row together. Each block of a tile of rows then has one row, whose positions are the rows of its
tiles. Products by weights stay sharded by units; the two communicate by exchanges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...analysis.block_axis import wide
from ...analysis.matmul_form import WeightMatmul
from ...ir.program import LoopProgram, Op, Unsupported

# forms of a value: WHOLE in every block, or of a block's OWN row. Other forms are granularities by
# which it is sharded: among all blocks, or if negative among those of one row
WHOLE, OWN = 0, -1


def row_owned(
    program: LoopProgram, ops: Mapping[str, Op], dots: Mapping[str, WeightMatmul]
) -> frozenset[str]:
    """Returns the values that a block computes for its own row.

    They vary over the block axis, are computed from all of its positions, or depend on such values
    without a product by a weight (`dots`) in between. Raises Unsupported if a weight multiplies a
    value that varies over the block axis.
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


def with_sources(
    ops: Mapping[str, Op], own: frozenset[str], free: frozenset[str]
) -> frozenset[str]:
    """`own`, and those values of `free` that only they use: a block has fewer elements of them."""
    found = set(own)
    users: dict[str, set[str]] = {name: set() for name in ops}
    for op in ops.values():
        for arg in op.args:
            users[arg].add(op.name)
    for op in reversed(list(ops.values())):
        mine = op.kind in ("pointwise", "view", "sum", "max") and op.name in free
        if mine and users[op.name] and users[op.name] <= found:
            found.add(op.name)
    return frozenset(found)
