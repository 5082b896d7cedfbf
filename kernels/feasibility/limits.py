"""Limits per block that all GPUs have in common: registers, tensor memory, rows."""

from __future__ import annotations

# 32-bit registers of one multiprocessor, and the most that one thread may have
REGISTERS = 65_536
MAX_REGISTERS = 255
# How often a block polls a barrier's counter before it gives up. That is some seconds, at a
# microsecond or less per read from the L2 cache (not measured).
PATIENCE = 1 << 24
# Columns of Blackwell's tensor memory, which matmuls of 64 rows use. An LSTM of 128 units needs
# 576, for four matmuls and their operand, and is silently compiled to a trap.
TENSOR_MEMORY = 512
# rows per program of cooperative kernels: more rows need more registers and shared memory, but a
# large batch then needs fewer launches
TILE_ROWS = (16, 32)


def register_option(threads: int, capped: bool) -> int | None:
    """Return the `maxnreg` option of a launch: the register cap, or None if not `capped`."""
    return register_cap(threads) if capped else None


def register_cap(threads: int) -> int:
    """Return the most registers per thread of a block; they are allocated in units of eight."""
    return min(MAX_REGISTERS, REGISTERS // threads // 8 * 8)
