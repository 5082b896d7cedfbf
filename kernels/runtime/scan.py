# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""The scan regime: z(t) = a(t) z(t-1) + b(t) along the first of (time, channels), with gradients.

A program walks time with a block of channels; where channels are few, segments of time are walked
at once, from the states that their summaries give. No atomics: the same bits every time.
"""

from collections.abc import Callable
from math import gcd, isqrt, prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# A program is one warp with TILE bytes of its operands, in rows of 512 or 256 bytes of each, on
# their way before it uses the first: 128 registers a thread for them, about as many for addresses.
# The multiply-adds and stores that follow are short against the wait. Rows of 128 bytes would spill
# and take ptxas 9 s.
TILE = 16384
# Reads on their way that fill the machine: on an H200 two thirds of 4.3 TB/s in 0.7 us, 2 MB.
# Not asked of the device, so that the order of operations is the same on each.
FILL = 2 << 20
LENGTHS = ["time", "units", "reverse", "length"]

Run = Callable[..., None]


@triton.jit
def _walk(time, units, reverse, ALIGN: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's columns; where its walk begins and how far it steps; its rows, by column.

    64 bits, for time times channels may exceed 32. A column that does not exist has no rows.
    """
    channels = units * ALIGN
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.cast(channels, tl.int64)
    origin = reverse * (time - 1) * step
    return column, column + origin, step - 2 * reverse * step, tl.where(column < channels, time, 0)


@triton.jit
def _rows(x, i, step, limit, other, ROWS: tl.constexpr):
    """Rows `i` … of the walk that begins at `x`, all on their way before the first is used."""
    rows = ()
    for r in tl.static_range(ROWS):
        rows += (tl.load(x + (i + r) * step, i + r < limit, other),)  # type: ignore[assignment]
    return rows


@triton.jit
def _enter(summaries, state, segment, column, units, ALIGN: tl.constexpr, ROWS: tl.constexpr):
    """The state in which a segment begins: the summaries of those before it, applied in order."""
    step = tl.cast(units * ALIGN, tl.int64)
    products = summaries + column
    totals = products + (tl.num_programs(1) - 1) * step
    limit = tl.where(column < units * ALIGN, segment, 0)
    for i in range(0, segment, ROWS):
        factors = _rows(products, i, step, limit, 1.0, ROWS)
        terms = _rows(totals, i, step, limit, 0.0, ROWS)
        for r in tl.static_range(ROWS):
            # a product may overflow where no state does, as long as that is zero
            state = tl.where(state == 0.0, 0.0, factors[r] * state) + terms[r]
    return state


@triton.jit(do_not_specialize=LENGTHS)
def summary_kernel(
    a, b, summaries, time, units, reverse, length,
    BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """What each segment but the last makes of a state: times a product, plus a total."""
    column, place, step, limit = _walk(time, units, reverse, ALIGN, COLUMNS)
    begin = tl.program_id(1) * length
    acc: tl.constexpr = summaries.dtype.element_ty
    product = tl.full([COLUMNS], 1.0, acc)
    total = tl.full([COLUMNS], 0.0, acc)
    for i in range(begin, begin + length, ROWS):
        factors = _rows(a + place, i, step, limit, 1.0, ROWS)
        terms = _rows(b + place, i, step, limit, 0.0, ROWS)
        for r in tl.static_range(ROWS):
            factor = factors[r].to(acc)
            product *= factor
            if BACK:
                total = factor * (total + terms[r].to(acc))
            else:
                total = factor * total + terms[r].to(acc)
    channels = tl.cast(units * ALIGN, tl.int64)
    products = summaries + tl.program_id(1) * channels + column
    tl.store(products, product, limit > 0)
    tl.store(products + tl.num_programs(1) * channels, total, limit > 0)


@triton.jit(do_not_specialize=LENGTHS)
def forward_kernel(
    a, b, start, z, summaries, time, units, reverse, length,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """One segment of z, read and written once."""
    column, place, step, limit = _walk(time, units, reverse, ALIGN, COLUMNS)
    begin = tl.program_id(1) * length
    acc: tl.constexpr = summaries.dtype.element_ty
    state = tl.load(start + column, limit > 0, 0.0).to(acc)
    state = _enter(summaries, state, tl.program_id(1), column, units, ALIGN, ROWS // 4)
    for i in range(begin, tl.minimum(begin + length, time), ROWS):
        factors = _rows(a + place, i, step, limit, 1.0, ROWS)
        terms = _rows(b + place, i, step, limit, 0.0, ROWS)
        for r in tl.static_range(ROWS):
            state = factors[r].to(acc) * state + terms[r].to(acc)
            tl.store(z + place + (i + r) * step, state, i + r < limit)


@triton.jit(do_not_specialize=LENGTHS)
def backward_kernel(
    a, start, z, g, da, db, dstart, summaries, time, units, reverse, length,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """One segment of the gradients, walked against the scan.

    The state is a(t) dz(t), what step t gives to the one before it: at the end, dstart.
    """
    column, place, step, limit = _walk(time, units, reverse, ALIGN, COLUMNS)
    begin = tl.program_id(1) * length
    acc: tl.constexpr = summaries.dtype.element_ty
    first = tl.load(start + column, limit > 0, 0.0)
    state = tl.full([COLUMNS], 0.0, acc)
    state = _enter(summaries, state, tl.program_id(1), column, units, ALIGN, ROWS // 4)
    for i in range(begin, tl.minimum(begin + length, time), ROWS):
        factors = _rows(a + place, i, step, limit, 1.0, ROWS)
        flows = _rows(g + place, i, step, limit, 0.0, ROWS)
        # before the first z there is the start
        befores = _rows(z + place + step, i, step, limit - 1, first, ROWS)
        for r in tl.static_range(ROWS):
            dz = state + flows[r].to(acc)
            state = factors[r].to(acc) * dz
            tl.store(da + place + (i + r) * step, dz * befores[r].to(acc), i + r < limit)
            tl.store(db + place + (i + r) * step, dz, i + r < limit)
    if begin + length >= time:
        tl.store(dstart + column, state, limit > 0)


class Cut(NamedTuple):
    """A tile's rows and columns, what divides the channels; how many segments, of which length."""

    rows: int
    columns: int
    align: int
    segments: int
    length: int


def cut(time: int, channels: int, size: int, operands: int, segments: int | None = None) -> Cut:
    """The wider tile if it fills the machine; else the narrower, and if need be segments.

    Wide rows take fewer instructions; narrow ones have more of each channel on its way.
    """
    align = gcd(channels, 16 // size)
    for width in 512, 256:
        # whole quarters; 10 rows of bf16 in backward spill, with Triton 3.6 on sm_90
        rows = TILE // operands // width // 4 * 4
        # a lane has no more of a row than one load can take, else 16 bits would fill a register
        columns = min(width // size, 32 * align)
        flight = operands * rows * channels * size
        if flight >= FILL or rows >= time:
            break
    if segments is None:
        # a and b are read twice in segments, so two gain nothing; two tiles each at least; and
        # the walk over S summaries, a quarter tile at a time, no longer than those over T / S
        segments = min(FILL // flight, time // (2 * rows), isqrt(time // 2))
        segments = segments if segments > 2 else 1
    length = triton.cdiv(triton.cdiv(time, segments), rows) * rows
    return Cut(rows, columns, align, triton.cdiv(time, length), length)


def compiled(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
    """Launch on the device of the tensors, the way `interpreter.launch` does on the CPU."""
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **constants)


def forward(
    a: Tensor, b: Tensor, start: Tensor, reverse: bool, run: Run, segments: int | None = None
) -> Tensor:
    """z of z(t) = a(t) z(t-1) + b(t), from `start`; from the end where `reverse`.

    `a`, `b`: (time, …) of one shape and dtype; `start`: (…). `run` is `compiled` or
    `interpreter.launch`. 16-bit numbers are accumulated in 32 bits.
    """
    a, b, start = a.contiguous(), b.contiguous(), start.contiguous()
    z = torch.empty_like(b)
    if z.numel():
        launches = _Launches(b, reverse, run, 2, segments)
        launches.summarize(a, b, back=False)
        launches.walk(forward_kernel, a, b, start, z)
    return z


def backward(
    a: Tensor, start: Tensor, z: Tensor, g: Tensor, reverse: bool, run: Run,
    segments: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of `a`, `b` and `start` for the gradient `g` of the result `z`."""
    a, start, z, g = (x.contiguous() for x in (a, start, z, g))
    da, db, dstart = torch.empty_like(a), torch.empty_like(g), torch.zeros_like(start)
    if z.numel():
        launches = _Launches(z, not reverse, run, 3, segments)
        launches.summarize(a, g, back=True)
        launches.walk(backward_kernel, a, start, z, g, da, db, dstart)
    return da, db, dstart


class _Launches:
    """The launches of one scan over tensors like `x`."""

    def __init__(self, x: Tensor, reverse: bool, run: Run, operands: int, segments: int | None):
        time, channels, size = x.shape[0], prod(x.shape[1:]), x.element_size()
        self.run, self.cut = run, cut(time, channels, size, operands, segments)
        rows, columns, align, _, length = self.cut
        # not specialised on the number of channels, only on the alignment of rows
        self.lengths = time, channels // align, int(reverse), length
        self.constants = {"ROWS": rows, "COLUMNS": columns, "ALIGN": align}
        self.constants |= {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
        self.blocks = triton.cdiv(channels, columns)
        acc = torch.promote_types(x.dtype, torch.float32)
        self.summaries = x.new_empty(2, self.cut.segments - 1, channels, dtype=acc)

    def summarize(self, a: Tensor, b: Tensor, back: bool) -> None:
        """Summaries of all segments but the last, where there are several."""
        if self.cut.segments > 1:
            grid = self.blocks, self.cut.segments - 1
            args = a, b, self.summaries, *self.lengths
            self.run(summary_kernel, grid, *args, BACK=back, **self.constants)

    def walk(self, kernel: Any, *tensors: Tensor) -> None:
        """The kernel that does the work, on every segment."""
        grid = self.blocks, self.cut.segments
        self.run(kernel, grid, *tensors, self.summaries, *self.lengths, **self.constants)
