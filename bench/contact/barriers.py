"""Item 1: the barrier of cooperative kernels, by a kernel whose blocks count together."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from graphnn.bench.contact.place import Place
from graphnn.kernels.cooperative.codegen.barrier import arrive, wait
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.feasibility.limits import PATIENCE
from graphnn.timing import barrier_cost
from graphnn.timing.clock import timer_for

OPTIONS = {
    "num_warps": 4,
    "num_stages": 1,
    "enable_fp_fusion": True,
    "launch_cooperative_grid": True,
}


@triton.jit(do_not_specialize=["steps"])
def count_kernel(slots, out, arrived, stuck, steps, BLOCKS: tl.constexpr, PATIENCE: tl.constexpr):
    """Each block adds all blocks' numbers of the step before to its own number, at every step."""
    block = tl.program_id(0)
    others = tl.arange(0, triton.next_power_of_2(BLOCKS))
    total = block.to(tl.int64)
    patience = PATIENCE
    for step in range(steps):
        slot = slots + step % 2 * BLOCKS
        tl.store(slot + block, total)
        arrive(arrived)
        patience = wait(arrived, (step + 1) * BLOCKS, patience, stuck, step)
        read = tl.load(slot + others, others < BLOCKS, 0, cache_modifier=".cg")
        # a modulus, so that sums stay whole numbers of 64 bits
        total = (total + tl.sum(read, 0)) % 1000003
    tl.store(out + block, tl.where(patience > 0, total, -1))


class Counting:
    """A launch of the kernel on `blocks` blocks."""

    def __init__(self, place: Place, blocks: int, steps: int):
        self.place, self.blocks, self.steps = place, blocks, steps
        device = place.device
        self.slots = torch.zeros(2 * blocks, dtype=torch.int64, device=device)
        self.out = torch.zeros(blocks, dtype=torch.int64, device=device)
        self.arrived = torch.zeros(1, dtype=torch.int32, device=device)
        self.stuck = torch.zeros(1, dtype=torch.int32, device=device)

    def run(self) -> None:
        """Launch it once, from counters of zero."""
        self.arrived.zero_()
        self.stuck.zero_()
        args = [self.slots, self.out, self.arrived, self.stuck, self.steps]
        constants = {"BLOCKS": self.blocks, "PATIENCE": PATIENCE}
        self.place.executor.launch(
            KernelLaunch(
                count_kernel,
                (self.blocks,),
                args,
                constants,
                OPTIONS,
                [1],
                [0, 2, 3],
                together=True,
            )
        )

    def check(self) -> dict[str, Any]:
        """Return sizes; raises AssertionError if a sum is wrong or a barrier was given up."""
        got, stuck = self.out.tolist(), int(self.stuck)
        if stuck:
            raise AssertionError(f"a barrier was never passed, at step {stuck - 1}")
        if got != (want := expected(self.blocks, self.steps)):
            wrong = sum(a != b for a, b in zip(got, want))
            raise AssertionError(f"{wrong} of {self.blocks} sums are wrong")
        return {"blocks": self.blocks, "steps": self.steps, "sums": "exact"}


def expected(blocks: int, steps: int) -> list[int]:
    """Return the sums that blocks must have."""
    totals = list(range(blocks))
    for _ in range(steps):
        whole = sum(totals)
        totals = [(t + whole) % 1000003 for t in totals]
    return totals


def count_together(place: Place) -> dict[str, Any]:
    """One block per multiprocessor counts for many steps."""
    counting = Counting(place, place.processors, place.size(100_000, 6))
    counting.run()
    return counting.check()


def two_streams(place: Place) -> dict[str, Any]:
    """Two launches of 80 blocks, or 60% of the GPU, at once on two streams."""
    blocks = min(80, place.processors * 3 // 5)
    both = [Counting(place, blocks, 20_000) for _ in range(2)]
    torch.cuda.synchronize()
    for counting in both:
        with torch.cuda.stream(torch.cuda.Stream()):
            counting.run()
    torch.cuda.synchronize()
    return {"each": [c.check() for c in both]}


def replayed(place: Place) -> dict[str, Any]:
    """100 replays of a CUDA graph of a launch."""
    counting = Counting(place, place.processors, 2_000)
    counting.run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counting.run()
    for _ in range(100):
        counting.out.zero_()
        graph.replay()
        torch.cuda.synchronize()
        found = counting.check()
    return {**found, "replays": 100}


def latency(place: Place) -> dict[str, Any]:
    """The time of a barrier across all blocks."""
    seconds = barrier_cost.latency(timer_for(place.device))
    return {"µs per barrier": seconds * 1e6, "blocks": place.processors}
