# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
"""Linear scan kernels and their gradients: z(t) = a(t) z(t-1) + b(t) over (time, channels).

A program loops over time for a block of channels. If there are few channels, segments of time run
in parallel, from initial states that come from summaries of the segments before them. There are no
atomics: results are bitwise reproducible.
"""

from collections.abc import Sequence
from math import gcd, isqrt, prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..executors.executor import Executor, KernelLaunch
from .alignment import aligned

# A program is one warp. It has TILE bytes of its operands in flight, in rows of 512 or 256 bytes of
# each operand, before it uses the first: 128 registers per thread for them, and about as many for
# addresses. The multiply-adds and stores that follow are short compared to the latency. Rows of 128
# bytes would spill, and ptxas would take 9 s.
TILE = 16384
# Bytes in flight that saturate the GPU: on an H200 two thirds of 4.3 TB/s in 0.7 µs, 2 MB. This is
# not queried from the device, so that the order of operations is the same on every device.
SATURATION = 2 << 20
LENGTHS = ["time", "units", "reverse", "length"]


@triton.jit
def _columns(time, units, reverse, ALIGN: tl.constexpr, COLUMNS: tl.constexpr):
    """Return this program's columns, the offset of its first row, its step, and rows per column.

    Offsets have 64 bits: time times channels may exceed 32 bits. A column that does not exist has
    no rows.
    """
    channels = units * ALIGN
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    step = tl.cast(channels, tl.int64)
    origin = reverse * (time - 1) * step
    return column, column + origin, step - 2 * reverse * step, tl.where(column < channels, time, 0)


@triton.jit
def _rows(x, i, step, limit, other, ROWS: tl.constexpr):
    """Load ROWS rows from row `i` on; all loads are in flight before the first is used."""
    rows = ()
    for r in tl.static_range(ROWS):
        rows += (tl.load(x + (i + r) * step, i + r < limit, other),)  # type: ignore[assignment]
    return rows


@triton.jit
def _enter(summaries, state, segment, column, units, ALIGN: tl.constexpr, ROWS: tl.constexpr):
    """Return a segment's initial state: the summaries of earlier segments, applied in order."""
    step = tl.cast(units * ALIGN, tl.int64)
    products = summaries + column
    totals = products + (tl.num_programs(1) - 1) * step
    limit = tl.where(column < units * ALIGN, segment, 0)
    for i in range(0, segment, ROWS):
        factors = _rows(products, i, step, limit, 1.0, ROWS)
        terms = _rows(totals, i, step, limit, 0.0, ROWS)
        for r in tl.static_range(ROWS):
            # a product may overflow although the states do not, as long as they are zero
            state = tl.where(state == 0.0, 0.0, factors[r] * state) + terms[r]
    return state


@triton.jit(do_not_specialize=LENGTHS)
def summary_kernel(
    a, b, summaries, time, units, reverse, length,
    BACK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Summarise each segment but the last: a state is multiplied by a product, plus a total."""
    column, origin, step, limit = _columns(time, units, reverse, ALIGN, COLUMNS)
    begin = tl.program_id(1) * length
    acc: tl.constexpr = summaries.dtype.element_ty
    product = tl.full([COLUMNS], 1.0, acc)
    total = tl.full([COLUMNS], 0.0, acc)
    for i in range(begin, begin + length, ROWS):
        factors = _rows(a + origin, i, step, limit, 1.0, ROWS)
        terms = _rows(b + origin, i, step, limit, 0.0, ROWS)
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
    """Compute one segment of z; operands are read once and results written once."""
    column, origin, step, limit = _columns(time, units, reverse, ALIGN, COLUMNS)
    begin = tl.program_id(1) * length
    acc: tl.constexpr = summaries.dtype.element_ty
    state = tl.load(start + column, limit > 0, 0.0).to(acc)
    state = _enter(summaries, state, tl.program_id(1), column, units, ALIGN, ROWS // 4)
    for i in range(begin, tl.minimum(begin + length, time), ROWS):
        factors = _rows(a + origin, i, step, limit, 1.0, ROWS)
        terms = _rows(b + origin, i, step, limit, 0.0, ROWS)
        for r in tl.static_range(ROWS):
            state = factors[r].to(acc) * state + terms[r].to(acc)
            tl.store(z + origin + (i + r) * step, state, i + r < limit)


@triton.jit(do_not_specialize=LENGTHS)
def backward_kernel(
    a, start, z, g, da, db, dstart, summaries, time, units, reverse, length,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """Compute one segment of the gradients, in the opposite direction of the scan.

    The state is a(t) dz(t), which step t passes to the step before it. At the end it is dstart.
    """
    column, origin, step, limit = _columns(time, units, reverse, ALIGN, COLUMNS)
    begin = tl.program_id(1) * length
    acc: tl.constexpr = summaries.dtype.element_ty
    first = tl.load(start + column, limit > 0, 0.0)
    state = tl.full([COLUMNS], 0.0, acc)
    state = _enter(summaries, state, tl.program_id(1), column, units, ALIGN, ROWS // 4)
    for i in range(begin, tl.minimum(begin + length, time), ROWS):
        factors = _rows(a + origin, i, step, limit, 1.0, ROWS)
        flows = _rows(g + origin, i, step, limit, 0.0, ROWS)
        # the value before the first z is the start
        befores = _rows(z + origin + step, i, step, limit - 1, first, ROWS)
        for r in tl.static_range(ROWS):
            dz = state + flows[r].to(acc)
            state = factors[r].to(acc) * dz
            tl.store(da + origin + (i + r) * step, dz * befores[r].to(acc), i + r < limit)
            tl.store(db + origin + (i + r) * step, dz, i + r < limit)
    if begin + length >= time:
        tl.store(dstart + column, state, limit > 0)


class ScanTiling(NamedTuple):
    """Rows and columns of a tile, a divisor of the channels, and segments with their length."""

    rows: int
    columns: int
    align: int
    segments: int
    length: int


def scan_tiling(
    time: int, channels: int, size: int, operands: int, segments: int | None = None
) -> ScanTiling:
    """Return the wider tile if it saturates the GPU, or else the narrower, in segments if needed.

    Wide rows need fewer instructions. Narrow rows have more of each channel in flight. `size` is
    the bytes per element, `operands` the number of tensors read.
    """
    align = gcd(channels, 16 // size)
    for width in 512, 256:
        # a multiple of 4; 10 rows of bf16 in backward spill, with Triton 3.6 on sm_90
        rows = TILE // operands // width // 4 * 4
        # a thread holds no more of a row than one load reads, or 16 bits would fill a register
        columns = min(width // size, 32 * align)
        in_flight = operands * rows * channels * size
        if in_flight >= SATURATION or rows >= time:
            break
    if segments is None:
        # In segments a and b are read twice, so two segments gain nothing. A segment has at least
        # two tiles. The loop over S summaries, a quarter tile at a time, must not be longer than
        # the loops over T / S steps.
        segments = min(SATURATION // in_flight, time // (2 * rows), isqrt(time // 2))
        segments = segments if segments > 2 else 1
    length = triton.cdiv(triton.cdiv(time, segments), rows) * rows
    return ScanTiling(rows, columns, align, triton.cdiv(time, length), length)


def forward(
    a: Tensor,
    b: Tensor,
    start: Tensor,
    reverse: bool,
    executor: Executor,
    segments: int | None = None,
) -> Tensor:
    """Return z of z(t) = a(t) z(t-1) + b(t), from `start`; from the end if `reverse`.

    `a` and `b` are (time, …) of the same shape and dtype, `start` is (…). 16-bit values are
    accumulated in 32 bits.
    """
    a, b, start = aligned(a), aligned(b), aligned(start)
    z = torch.empty_like(b)
    if z.numel():
        launches = _Launches(b, reverse, executor, 2, segments)
        launches.summarize(a, b, back=False)
        launches.compute(forward_kernel, (a, b, start), (z,))
    return z


def backward(
    a: Tensor, start: Tensor, z: Tensor, g: Tensor, reverse: bool, executor: Executor,
    segments: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of `a`, `b` and `start` for the gradient `g` of the result `z`."""
    a, start, z, g = (aligned(x) for x in (a, start, z, g))
    da, db, dstart = torch.empty_like(a), torch.empty_like(g), torch.zeros_like(start)
    if z.numel():
        launches = _Launches(z, not reverse, executor, 3, segments)
        launches.summarize(a, g, back=True)
        launches.compute(backward_kernel, (a, start, z, g), (da, db, dstart))
    return da, db, dstart


class _Launches:
    """The launches of one scan over tensors like `x`."""

    def __init__(
        self, x: Tensor, reverse: bool, executor: Executor, operands: int, segments: int | None
    ):
        time, channels, size = x.shape[0], prod(x.shape[1:]), x.element_size()
        self.executor, self.tiling = executor, scan_tiling(time, channels, size, operands, segments)
        rows, columns, align, _, length = self.tiling
        # specialised only on the alignment of rows, not on the number of channels
        self.lengths = time, channels // align, int(reverse), length
        self.constants = {"ROWS": rows, "COLUMNS": columns, "ALIGN": align}
        self.options = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": True}
        self.blocks = triton.cdiv(channels, columns)
        acc = torch.promote_types(x.dtype, torch.float32)
        self.summaries = x.new_empty(2, self.tiling.segments - 1, channels, dtype=acc)

    def summarize(self, a: Tensor, b: Tensor, back: bool) -> None:
        """Summarise all segments but the last, if there are several."""
        if self.tiling.segments > 1:
            grid = self.blocks, self.tiling.segments - 1
            args = a, b, self.summaries, *self.lengths
            self._launch(summary_kernel, grid, args, {"BACK": back, **self.constants}, [2])

    def compute(self, kernel: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
        """Run the kernel that computes the results, on every segment."""
        grid = self.blocks, self.tiling.segments
        args = *inputs, *outputs, self.summaries, *self.lengths
        stored = range(len(inputs), len(inputs) + len(outputs))
        self._launch(kernel, grid, args, self.constants, stored)

    def _launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        args: Sequence[Any],
        constants: dict[str, Any],
        stored: Sequence[int],
    ) -> None:
        with self.executor.device_of(args[0]):
            launch = KernelLaunch(
                kernel, grid, args, constants, self.options, stored, family="scan"
            )
            self.executor.launch(launch)
