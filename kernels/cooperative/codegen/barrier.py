"""The barrier between the thread blocks of one tile of rows: a counter that each adds one to.

All of a launch must run at the same time. Should some never arrive, the others wait only so long:
they say at which step, and what they compute from then on is NaN.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def arrive(arrived):
    """What all warps of this block have stored is there for those who see the counter raised."""
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release", scope="gpu")


@triton.jit
def wait(arrived, target, patience, stuck, step):
    """Until the counter is at `target`, or has been looked at `patience` times; what is left of it.

    `stuck` is given the number of the step, from 1, at which patience ended, the first of any.
    """
    left = patience
    while (tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < target) & (left > 0):
        left -= 1
    if (left == 0) & (patience > 0):
        tl.atomic_cas(stuck, 0, step + 1)
    return tl.where(left > 0, patience, 0)
