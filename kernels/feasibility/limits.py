"""What a GPU gives a block: shared memory, registers, tensor memory; and the nearest known GPU."""

from __future__ import annotations

# bytes of shared memory a block may ask for
SHARED = {"sm_80": 166_912, "sm_90": 232_448, "sm_100": 232_448}
# 32-bit registers of one multiprocessor, and the most that one thread may have
REGISTERS = 65_536
MOST_REGISTERS = 255
# how often a block looks at a barrier's counter before it gives up: seconds, at the microsecond or
# less that a look at the L2 cache takes (not measured)
PATIENCE = 1 << 24
# columns of Blackwell's tensor memory, which products of 64 rows use: an LSTM of 128 units needs
# 576, four products and their operand, and is then compiled to a trap, silently
TENSOR_MEMORY = 512
# rows per program of cooperative kernels: more cost registers and shared memory, and save launches
# of a large batch
TILE_ROWS = (16, 32)


def nearest(major: int, minor: int) -> str:
    """The target, among those whose limits are known, for a GPU of this compute capability."""
    able = 10 * major + minor
    known = sorted(int(name.removeprefix("sm_")) for name in SHARED)
    return f"sm_{max((k for k in known if k <= able), default=known[0])}"


def asked(threads: int, capped: bool) -> int | None:
    """The cap on registers that the assembler is told."""
    return register_cap(threads) if capped else None


def register_cap(threads: int) -> int:
    """The most registers that a thread of a block may have; they are given out by eights."""
    return min(MOST_REGISTERS, REGISTERS // threads // 8 * 8)
