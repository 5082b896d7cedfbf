"""The barrier between the thread blocks of one tile of rows: a counter that each block increments.

All blocks of a launch must run at the same time. If some never arrive, the others stop waiting
after a while: they record the step, and compute NaN from then on.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def arrive(arrived):
    """Increments the counter: blocks that read it then see all stores of this block's warps."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release", scope="gpu")


@triton.jit
def _missing(arrived, target):
    """Returns how many arrivals are missing until the counter is at `target`, if any."""
    return (target - tl.atomic_add(arrived, 0, sem="acquire", scope="gpu")).to(tl.int32)


@triton.jit
def wait(arrived, target, patience, stuck, step):
    """Waits until the counter is at `target`, for at most `patience` reads of it.

    Both count modulo 2^32: a loop of many steps passes 2^31 (6.7 million at 64 blocks and 5
    barriers). No block is so far ahead of another, so the difference says which is first. Returns
    `patience`, or 0 if the wait expired. `stuck` then receives the number of the step, from 1,
    unless another block has set it.
    """
    left = patience
    while (_missing(arrived, target) > 0) & (left > 0):
        left -= 1
    if (left == 0) & (patience > 0):
        tl.atomic_cas(stuck, 0, step + 1)
    return tl.where(left > 0, patience, 0)
