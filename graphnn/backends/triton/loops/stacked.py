"""Whether loops that feed each other are faster as one kernel that many thread blocks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphnn.backends.triton.loops.to_kernel import loop_program
from graphnn.ir.graph import IR
from graphnn.kernels.feasibility.fit import Launch, choose_kernel, weight_bytes
from graphnn.kernels.feasibility.limits import SHARED_MEMORY
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.kernels.select.search import MODEL_ERROR, fastest_step
from graphnn.planner.core.regions import Loop, users_of

Key = tuple[tuple[int, str], ...]


def key_of(ir: IR, loop: Loop) -> Key:
    """What a loop is known by: its states, in the graph and in the functions made of it."""
    return tuple((i, ir[i].label) for i in loop.states)


@dataclass
class Stacks:
    """Weighs stacked loops against the same ones after another, by the model of shared kernels.

    What they are taken to be, once weighed, holds for all programs made of them; `why` says it, by
    the states of a loop. `resident` and `fit` are those of the `Lowering`, `ask` whether the
    compiler has the last word.
    """

    launch: Callable[[], Launch]
    target: str
    resident: bool
    fit: bool
    ask: bool
    known: dict[Key, bool] = field(default_factory=dict)
    why: dict[Key, str] = field(default_factory=dict)
    times: dict[Key, float] = field(default_factory=dict)

    def faster(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        """Whether `one` is faster than the `loops` it is made of, by more than the model errs."""
        key = key_of(ir, one)
        if key not in self.known:
            self.known[key] = self._weigh(ir, loops, one)
        return self.known[key]

    def _weigh(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        each = [key_of(ir, x) for x in loops]
        try:
            apart = [self._alone(ir, x) for x in loops]
            joint = self._micros(ir, one, self.ask)
        except Unsupported as reason:
            self.why |= dict.fromkeys(each, f"not one kernel with those stacked on it: {reason}")
            return False
        sums = " + ".join(f"{x:.1f}" for x in apart)
        figures = f"{joint:.1f} µs per step, {sums} in sequence (cost model, not measured)"
        if joint * MODEL_ERROR >= sum(apart):
            self.why |= dict.fromkeys(each, f"not one kernel with those stacked on it: {figures}")
            return False
        self.why[key_of(ir, one)] = f"{len(loops)} stacked loops in one kernel: {figures}"
        return True

    def _alone(self, ir: IR, loop: Loop) -> float:
        """Microseconds of a step of one of the loops, which several stacks may have."""
        key = key_of(ir, loop)
        if key not in self.times:
            self.times[key] = self._micros(ir, loop, False)
        return self.times[key]

    def _micros(self, ir: IR, loop: Loop, ask: bool) -> float:
        """Microseconds of a step that blocks share. Raises Unsupported if none can."""
        users, outs, inside = users_of(ir), set(ir.outputs.values()), set(loop.nodes)
        kept = [i for i in loop.nodes if i in outs or any(u not in inside for u in users[i])]
        program, _ = loop_program(ir, loop, kept, "stack")
        launch = self.launch()
        if self.resident and self._fits(program, launch):
            raise Unsupported("one of them fits a multiprocessor, whose steps have no model")
        return fastest_step(program, launch, self.target, ask, self.fit)

    def _fits(self, program: LoopProgram, launch: Launch) -> bool:
        """Whether one block can have the whole loop."""
        if weight_bytes(program, launch) > SHARED_MEMORY[self.target]:
            return False
        return choose_kernel(program, launch, self.target, may_compile=False)[1].fits
