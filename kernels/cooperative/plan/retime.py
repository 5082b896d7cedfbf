"""Products put off to the next step, where that spares a barrier.

What flows back to a state is often one product of what a step has found last: blocks would have to
meet once more before the step ends. Made by the step that uses it, it reads what was published a
step ago, and any barrier since then will do (Leiserson and Saxe 1991, retiming).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...analysis.matmul_form import WeightMatmul
from ...ir.program import LoopProgram, LoopState, Op
from .granularity import dot_of
from .outline import outline


def retimed(program: LoopProgram, units: int) -> LoopProgram:
    """The program with those products put off that make for fewer barriers a step: the same one
    where none does. Raises Unsupported where blocks of so many units cannot share it."""
    able = list(put_off(program))
    if not able:
        return program
    best = min((program, *able), key=lambda p: barriers(p, units))
    return program if best is program else retimed(best, units)


def barriers(program: LoopProgram, units: int) -> int:
    """The barriers of a step, in blocks of `units`. Raises Unsupported if they cannot share it."""
    return outline(program, units).phases.barriers


def put_off(program: LoopProgram) -> Iterator[LoopProgram]:
    """The program with one product put off, for each state that is nothing else."""
    ops = {op.name: op for op in program.ops}
    for state in program.states:
        how = dot_of(ops[state.next], ops)
        zeros = all(ops[i].kind == "const" and not ops[i].attrs["value"] for i in state.inits)
        if isinstance(how, WeightMatmul) and zeros and state.delay == 1 and _alone(program, state):
            yield _put_off(program, ops, state, how)


def _alone(program: LoopProgram, state: LoopState) -> bool:
    """Whether nothing but the state takes its next value."""
    taken = [a for op in program.ops for a in op.args]
    taken += [name for name, _ in program.stores]
    taken += [name for s in program.states for name in (*s.inits, s.next) if s is not state]
    return state.next not in taken


def _put_off(
    program: LoopProgram, ops: dict[str, Op], state: LoopState, how: WeightMatmul
) -> LoopProgram:
    """The operand becomes the state, the state its product, first of all that moves."""
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
