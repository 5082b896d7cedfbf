"""The program of a ragged loop: it ends with its rows, which come in the order of their lengths."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, count

from graphnn.backends.torch.codegen.scope import Ends
from graphnn.kernels.ir.program import LoopProgram, Tensor

# stands among the nodes that a loop reads for its rows in the order of their lengths
ORDER = -1


def ending(program: LoopProgram, reads: list[int], ends: Ends) -> tuple[LoopProgram, list[int]]:
    """The program with the lengths of its rows, and their order."""
    axes = tuple(a for a in program.rows if a in ends.node.axes)
    names = {t.name for t in program.tensors}
    lengths = Tensor(_free("lengths", names), (), axes, "int")
    order = Tensor(_free("order", names), (), program.rows, "int")
    if program.block_axis:  # a program has one row
        program = replace(program, tensors=(*program.tensors, lengths), ends=lengths)
        return replace(program, held=ends.held), [*reads, ends.node.id]
    made = (*program.tensors, lengths, order)
    program = replace(program, tensors=made, ends=lengths, order=order, held=ends.held)
    return program, [*reads, ends.node.id, ORDER]


def unordered(program: LoopProgram, reads: list[int]) -> tuple[LoopProgram, list[int]]:
    """The program with rows as they come, which takes a few registers less.

    A GRU of 160 units, reset after the product, spills 30 times in its backward with rows in order,
    never without (bf16, sm_90, Triton 3.9).
    """
    return replace(program, tensors=program.tensors[:-1], order=None), reads[:-1]


def _free(wanted: str, names: set[str]) -> str:
    """A name that none of `names` is."""
    return next(
        x for x in chain([wanted], map(f"{wanted}_{{}}".format, count(2))) if x not in names
    )
