"""The cost of a barrier across all blocks of a GPU, by a kernel that does nothing else.

It has not been run on a GPU yet. It compiles ahead of time for sm_90. The interpreter cannot run
it, because it runs one block at a time and the first would wait for ever.
"""

from __future__ import annotations

import statistics

import torch
import triton
import triton.language as tl

from graphnn.timing.clock import Timer, rounds

FEW, MANY = 16, 1040
# all blocks must run at once, otherwise they wait for the others forever
OPTIONS = {
    "num_warps": 4,
    "num_stages": 1,
    "enable_fp_fusion": True,
    "launch_cooperative_grid": True,
}


@triton.jit  # type: ignore[untyped-decorator]
def barriers(counter, steps, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """`steps` barriers of `BLOCKS` programs on one counter, which starts at zero."""
    for step in range(steps):
        tl.debug_barrier()
        tl.atomic_add(counter, 1, sem="release", scope="gpu")
        while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < (step + 1) * BLOCKS:
            pass
        tl.debug_barrier()


def latency(clock: Timer, count: int = 9) -> float:
    """Seconds per barrier, with one block per multiprocessor."""
    blocks = torch.cuda.get_device_properties().multi_processor_count
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")

    def run(steps: int) -> None:
        counter.zero_()
        barriers[(blocks,)](counter, steps, BLOCKS=blocks, **OPTIONS)

    found = rounds({"few": lambda: run(FEW), "many": lambda: run(MANY)}, count, clock)
    few, many = (statistics.median(found[x]) for x in ("few", "many"))
    return max(0.0, (many - few) / (MANY - FEW))
