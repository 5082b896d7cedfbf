"""Kernels without faults. Tests of the checker change one line of this file at a time."""

import triton
import triton.language as tl


@triton.jit
def double(x, out, n, SIZE: tl.constexpr):
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    value = tl.load(x + i, mask=i < n)
    tl.store(out + i, value * 2, mask=i < n)


@triton.jit
def running(x, out, saved, T, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """out(t) is the sum of x up to t, and saved(t) its square."""
    i = tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], out.dtype.element_ty)
    for t in range(T):
        here = t * ROWS * COLUMNS + i
        total += tl.load(x + here)
        tl.store(out + here, total)
        tl.store(saved + here, total * total)


@triton.jit
def arrive(count):
    tl.debug_barrier()
    tl.atomic_add(count, 1, sem="release", scope="gpu")


@triton.jit
def wait(count, target):
    while tl.atomic_add(count, 0, sem="acquire", scope="gpu") < target:
        pass


@triton.jit
def together(
    x, out, slots, count, T, PROGRAMS: tl.constexpr, SIZE: tl.constexpr, WIDE: tl.constexpr
):
    """y(t) is x(t) minus the largest y(t-1) of all programs."""
    mine = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    every = tl.arange(0, PROGRAMS * SIZE)
    y = tl.load(x + mine).to(WIDE)
    tl.store(out + mine, y)
    for t in range(1, T):
        slot = slots + (t % 2) * PROGRAMS * SIZE
        tl.store(slot + mine, y)
        arrive(count)
        x_t = tl.load(x + t * PROGRAMS * SIZE + mine).to(WIDE)
        wait(count, t * PROGRAMS)
        y = x_t - tl.max(tl.load(slot + every).to(WIDE), 0)
        tl.store(out + t * PROGRAMS * SIZE + mine, y)


@triton.jit
def total(x, sums, SIZE: tl.constexpr):
    """Add every program's part of x to sums."""
    i = tl.arange(0, SIZE)
    value = tl.load(x + tl.program_id(0) * SIZE + i)
    tl.atomic_add(sums + i, value, sem="relaxed")


@triton.jit
def locked(x, best, lock, SIZE: tl.constexpr):
    """best is the maximum of x, updated under a lock."""
    value = tl.max(tl.load(x + tl.program_id(0) * SIZE + tl.arange(0, SIZE)), 0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    value = tl.maximum(value, tl.load(best))
    tl.store(best, value)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)
