"""What a GPU gives a block, and predictions of what a resident kernel takes of it."""

from __future__ import annotations

# bytes of shared memory a block may ask for
SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
# 32-bit registers of one multiprocessor, and the most that one thread may have
REGISTERS = 65_536
MOST_REGISTERS = 255
# columns of Blackwell's tensor memory
TENSOR_MEMORY = 512


def register_cap(threads: int) -> int:
    """The most registers that a thread of a block may have; they are given out by eights."""
    return min(MOST_REGISTERS, REGISTERS // threads // 8 * 8)
