"""Decides whether stacked loops are faster as one cooperative kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from graphnn.backends.triton.loops.to_kernel import loop_program
from graphnn.ir.graph import IR
from graphnn.kernels.feasibility.fit import Launch, choose_kernel, weight_bytes
from graphnn.kernels.feasibility.targets import shared_memory_of
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.kernels.select.search import MODEL_ERROR, fastest_step
from graphnn.planner.core.regions import Loop, users_of

Key = tuple[tuple[int, str], ...]


def key_of(ir: IR, loop: Loop) -> Key:
    """The key of a loop: its states. They are equal in the graph and in generated functions."""
    return tuple((i, ir[i].label) for i in loop.states)


@dataclass
class Stacks:
    """Compares stacked loops in one kernel with the same loops in sequence, by the cost model.

    A decision holds for all programs made of these loops; `why` gives the reason by the key of a
    loop. `resident` and `fit` are those of the lowering. If `ask`, a choice is compiled first.
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
        """Whether `one` is faster than its `loops`, by more than the error margin of the model."""
        key = key_of(ir, one)
        if key not in self.known:
            self.known[key] = self._compare(ir, loops, one)
        return self.known[key]

    def _compare(self, ir: IR, loops: Sequence[Loop], one: Loop) -> bool:
        keys = [key_of(ir, x) for x in loops]
        try:
            separate = [self._one_loop(ir, x) for x in loops]
            joint = self._micros(ir, one, self.ask)
        except Unsupported as reason:
            self.why |= dict.fromkeys(keys, f"not fused with the loops stacked on it: {reason}")
            return False
        sums = " + ".join(f"{x:.1f}" for x in separate)
        estimate = f"{joint:.1f} µs per step, {sums} in sequence (cost model, not measured)"
        if joint * MODEL_ERROR >= sum(separate):
            self.why |= dict.fromkeys(keys, f"not fused with the loops stacked on it: {estimate}")
            return False
        self.why[key_of(ir, one)] = f"{len(loops)} stacked loops in one kernel: {estimate}"
        return True

    def _one_loop(self, ir: IR, loop: Loop) -> float:
        """Microseconds per step of one loop; several stacks may contain it."""
        key = key_of(ir, loop)
        if key not in self.times:
            self.times[key] = self._micros(ir, loop, False)
        return self.times[key]

    def _micros(self, ir: IR, loop: Loop, ask: bool) -> float:
        """Microseconds per step of a cooperative kernel. Raises Unsupported if there is none."""
        users, outs, inside = users_of(ir), set(ir.outputs.values()), set(loop.nodes)
        kept = [i for i in loop.nodes if i in outs or any(u not in inside for u in users[i])]
        program, _ = loop_program(ir, loop, kept, "stack")
        launch = self.launch()
        if self.resident and self._fits(program, launch):
            raise Unsupported("one of them fits one multiprocessor, which has no cost model")
        return fastest_step(program, launch, self.target, ask, self.fit)

    def _fits(self, program: LoopProgram, launch: Launch) -> bool:
        """Whether one block can run the whole loop."""
        if weight_bytes(program, launch) > shared_memory_of(self.target):
            return False
        return choose_kernel(program, launch, self.target, may_compile=False)[1].fits
