"""The scene of a plan: what runs before, in and after each loop, and in which kernel."""

from __future__ import annotations

from typing import Any

from torch import nn

from graphnn.backends.triton.loops.phases import Phase, schedule
from graphnn.pictures.scenes.build import Builder
from graphnn.pictures.scenes.scene import Band, Scene
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.choose import loop_name
from graphnn.planner.pipeline import Plan


def planned(plan: Plan, owner: nn.Module, programs: dict[int, Any]) -> Scene:
    """The scene of a plan, one band per part. `programs` maps a loop's state to its program."""
    return _Planned(plan, owner, programs).run()


class _Planned:
    def __init__(self, plan: Plan, owner: nn.Module, programs: dict[int, Any]):
        self.plan, self.owner, self.programs = plan, owner, programs
        self.region = {i: k for k, r in enumerate(plan.regions) for i in r.nodes}
        self.kernel: dict[int, int] = {}
        for region in plan.regions:
            if isinstance(region, Loop) and self._strategy(region) == "stepwise":
                self.kernel.update(self._phases(region))

    def run(self) -> Scene:
        builder = Builder(
            self.plan.ir,
            self.owner,
            lambda i: (self.region.get(i), self.kernel.get(i)),
            separate=True,
            band=lambda i: self.region.get(i, 0),
            notes=lambda i: f"kernel phase_{self.kernel[i]}" if i in self.kernel else "",
        )
        scene = builder.run()
        scene.bands = [self._band(k) for k in range(len(self.plan.regions))]
        return scene

    def _choice(self, loop: Loop) -> Any:
        program = self.programs.get(loop.states[0])
        choices = program.choices() if program is not None else []
        return choices[0] if choices else None

    def _strategy(self, loop: Loop) -> str:
        """The strategy of a loop that has kernels, else an empty string."""
        choice = self._choice(loop)
        return choice.strategy if choice is not None else ""

    def _phases(self, loop: Loop) -> dict[int, int]:
        """For each node of a step that a kernel runs, the number in that kernel's name.

        Torch runs the matmuls, and each phase for which no kernel could be written.
        """
        ir, program = self.plan.ir, self.programs[loop.states[0]]
        nodes = [i for r in loop.body if isinstance(r, Whole) for i in r.nodes]
        work = [i for i in nodes if i not in loop.states and ir[i].op not in ("const", "size")]
        return {
            i: k
            for k, part in enumerate(schedule(ir, work))
            if isinstance(part, Phase)
            and f"{program.train.name}_phase_{k}" in program.lowering.launchers
            for i in part.nodes
        }

    def _band(self, k: int) -> Band:
        region = self.plan.regions[k]
        if isinstance(region, Whole):
            return Band(self._when(k), "whole", "torch: all positions at once")
        name = f"loop {loop_name(self.plan.ir, region)} over {region.axis}"
        way = ", from the end" if region.reverse else ""
        return Band(name + way, "loop", self._how(region))

    def _how(self, loop: Loop) -> str:
        choice = self._choice(loop)
        if choice is None:
            return "stepwise: one torch call per operation and step"
        if choice.strategy == "resident":
            pair = ", two loops in one launch" if "side by side" in choice.reason else ""
            return f"persistent: one kernel runs all of this band{pair}"
        if choice.strategy == "cooperative":
            return "cooperative: one kernel, sharded over many thread blocks, runs all of this band"
        if choice.strategy == "stepwise":
            count = len({self.kernel[i] for i in loop.nodes if i in self.kernel})
            return f"stepwise: {count} kernels per step, torch matmuls between them"
        return f"{choice.strategy}: one call per operation and step"

    def _when(self, k: int) -> str:
        before = [r for r in self.plan.regions[:k] if isinstance(r, Loop)]
        after = [r for r in self.plan.regions[k + 1 :] if isinstance(r, Loop)]
        if before and after:
            return "between the loops"
        return "before the loop" if after else "after the loop" if before else "over whole axes"
