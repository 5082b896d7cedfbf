"""Whether matmuls may have tiles of 64 rows: on some targets only after they were verified.

On Hopper and Blackwell, Triton multiplies tiles of fewer than 64 rows by mma.sync, as on all GPUs.
It multiplies larger ones by wgmma or tcgen05, and miscompiles some: illegal accesses to shared
memory (triton #11366, #10486, #10573), wrong gradients of a transposed left operand (#6124), wrong
sums of two matmuls chained through one accumulator (#10821). Until a check on the GPU has passed,
kernels have at most 32 rows on these targets, forward and backward.

`remember_verified` opens larger tiles, for good: the check is remembered in the cache.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import triton

from .. import cache
from .targets import TARGETS

# the rows of a matmul from which on Triton takes the large instructions, and what is taken instead
LARGE, SMALL = 64, 32


def large_tiles(target: str) -> bool:
    """Return whether matmuls may have 64 rows or more on a target.

    They may if the target multiplies them by mma.sync, or if they were verified on it.
    """
    return not instruction(target) or _verified(target)


def most_rows(target: str) -> int:
    """Return the most rows of a matmul's tile on a target."""
    return LARGE if large_tiles(target) else SMALL


def instruction(target: str) -> str:
    """Return the instruction of tiles of 64 rows, empty if it is the one of smaller tiles."""
    return TARGETS[target].large if target in TARGETS else ""


def remember_verified(target: str, verified: bool = True) -> None:
    """Remember that tiles of 64 rows give right results on a target, with this Triton.

    Call it after a comparison on the device. `verified=False` takes it back.
    """
    cache.remember(_key(target), {"verified": verified})
    _verified.cache_clear()


@functools.cache
def _verified(target: str) -> bool:
    return bool((cache.recall(_key(target)) or {}).get("verified"))


def _key(target: str) -> dict[str, Any]:
    """Return what a verification depends on: the target, Triton, and another assembler, if any."""
    assembler = os.environ.get("TRITON_PTXAS_PATH", "")
    return {
        "what": "large tiles",
        "target": target,
        "triton": triton.__version__,
        "ptxas": assembler,
    }
