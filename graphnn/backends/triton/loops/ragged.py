"""The program of a ragged loop: rows are sorted by length, and each block stops with its rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

from graphnn.backends.torch.codegen.scope import Ends
from graphnn.kernels.ir.program import LoopProgram, Tensor

# stands among the nodes that a loop reads for the order of its rows by length
ORDER = -1


def ending(program: LoopProgram, reads: list[int], ends: Ends) -> tuple[LoopProgram, list[int]]:
    """Add the lengths of rows and their order to a program."""
    axes = tuple(a for a in program.rows if a in ends.node.axes)
    names = {t.name for t in program.tensors}
    lengths = Tensor(_free("lengths", names), (), axes, "int")
    order = Tensor(_free("order", names), (), program.rows, "int")
    if program.block_axis:  # one row per block
        program = replace(program, tensors=(*program.tensors, lengths), ends=lengths)
        return replace(program, held=ends.held), [*reads, ends.node.id]
    made = (*program.tensors, lengths, order)
    program = replace(program, tensors=made, ends=lengths, order=order, held=ends.held)
    return program, [*reads, ends.node.id, ORDER]


def unordered(program: LoopProgram, reads: list[int]) -> tuple[LoopProgram, list[int]]:
    """The program without sorted rows, which needs a few registers less.

    The backward of a GRU of 160 units, with reset after the matmul, has 30 spills with sorted rows
    and none without (bf16, sm_90, Triton 3.9).
    """
    return replace(program, tensors=program.tensors[:-1], order=None), reads[:-1]


def _free(wanted: str, names: set[str]) -> str:
    """The wanted name, with a number if it is in `names`."""
    return next(
        x for x in chain([wanted], map(f"{wanted}_{{}}".format, count(2))) if x not in names
    )
