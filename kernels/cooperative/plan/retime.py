"""Retiming: products are delayed to the next step if that saves a barrier.

The gradient of a state is often one product of what a step computes last: blocks would need one
more barrier before the step ends. If the step that uses the product computes it, it reads what was
published a step ago, and any barrier since then is enough (Leiserson and Saxe 1991, retiming).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...analysis.matmul_form import WeightMatmul
from ...ir.program import LoopProgram, LoopState, Op
from .granularity import dot_of
from .outline import outline


def retimed(program: LoopProgram, units: int) -> LoopProgram:
    """The program with those products delayed that save a barrier per step, or the same program.

    Raises Unsupported if it cannot be sharded among blocks of `units` units.
    """
    able = list(delayed(program))
    if not able:
        return program
    best = min((program, *able), key=lambda p: barriers(p, units))
    return program if best is program else retimed(best, units)


def barriers(program: LoopProgram, units: int) -> int:
    """The barriers of a step, in blocks of `units`. Raises Unsupported if they cannot share it."""
    return outline(program, units).phases.barriers


def delayed(program: LoopProgram) -> Iterator[LoopProgram]:
    """For each state that is a product alone: the program with this product delayed."""
    ops = {op.name: op for op in program.ops}
    for state in program.states:
        how = dot_of(ops[state.next], ops)
        zeros = all(ops[i].kind == "const" and not ops[i].attrs["value"] for i in state.inits)
        if isinstance(how, WeightMatmul) and zeros and state.delay == 1 and _alone(program, state):
            yield _delayed(program, ops, state, how)


def _alone(program: LoopProgram, state: LoopState) -> bool:
    """Whether only the state reads its next value."""
    taken = [a for op in program.ops for a in op.args]
    taken += [name for name, _ in program.stores]
    taken += [name for s in program.states for name in (*s.inits, s.next) if s is not state]
    return state.next not in taken


def _delayed(
    program: LoopProgram, ops: dict[str, Op], state: LoopState, how: WeightMatmul
) -> LoopProgram:
    """The operand becomes the state, and the state its product, before all else that varies."""
    value, product = ops[how.value], ops[state.next]
    name = f"{value.name}_before"
    while name in ops:
        name += "_"
    before = Op(name, "state", (), value.shape, value.dtype, {}, value.note)
    args = tuple(name if a == value.name else a for a in product.args)
    late = replace(product, name=state.name, args=args)
    weight = ops[how.weight]
    gone = (state.name, product.name, weight.name)
    rest = [op for op in program.ops if op.name not in gone]
    first = next((k for k, op in enumerate(rest) if op.kind == "state" or op.args), len(rest))
    made = (*rest[:first], weight, before, late, *rest[first:])
    moved = LoopState(name, 1, state.inits, value.name)
    return replace(
        program, ops=made, states=tuple(moved if s is state else s for s in program.states)
    )
