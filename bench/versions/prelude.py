"""Kernels that call every function of the prelude: compiled for each target."""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator

import triton
import triton.language as tl

from graphnn.kernels.codegen import prelude as p
from graphnn.kernels.feasibility.aot import KernelCase


@triton.jit
def of_one_number(x, out):
    """Call each function of one number, and those of two with the number itself."""
    i = tl.arange(0, 128)
    v = tl.load(x + i)
    v += p.sigmoid(v) + p.tanh(v) + p.log1p(v) + p.expm1(v) + p.sinh(v) + p.cosh(v)
    v += p.asinh(v) + p.acosh(v) + p.atanh(v) + p.sign(v) + p.round_half_even(v)
    v += p.power(v, v * 0.5) + p.remainder(v, v + 2) + p.floor_divide(v, v + 3)
    tl.store(out + i, tl.where(p.close_to_max(v, p.nan_max(v, 0)), v, 0.0))


@triton.jit
def random_numbers(seed, out):
    """Draw from each law."""
    i = tl.arange(0, 128)
    key = tl.load(seed)
    drawn = p.uniform(key, i, tl.float32) + p.normal(key, i, tl.float32)
    tl.store(out + i, drawn * p.dropout(key, i, 0.5, tl.float32))


@triton.jit
def products(x, w, out, PRECISION: tl.constexpr):
    """Multiply tiles, and take parts of the product."""
    i, j = tl.arange(0, 16)[:, None], tl.arange(0, 64)[None, :]
    k = tl.arange(0, 64)[:, None]
    a, b = tl.load(x + i * 64 + j), tl.load(w + k * 64 + j)
    zero = tl.zeros([16, 64], tl.float32)
    made, rest = p.matmul_bf16x3(a, b, zero, zero, PRECISION, False)
    made = p.matmul(a, b, p.sum_bf16x3(made, rest), PRECISION, False)
    first, second, third, fourth = p.deinterleave4(made)
    left, right = p.deinterleave2(first + second * third - fourth)
    at = i * 8 + tl.arange(0, 8)[None, :]
    tl.store(out + at, left * right + p.piece_of(made, 1, 8))


@triton.jit
def over_an_axis(x, out, many, AXIS: tl.constexpr):
    """Call each function over the block axis, along rows or columns."""
    lane = tl.arange(0, 16)
    place = lane[:, None] if AXIS == 0 else lane[None, :]
    at = lane[:, None] * 16 + lane[None, :]
    v = tl.load(x + at)
    live = place < many
    v = p.roll(v, place, live, many, 1, 0) if AXIS == 0 else v
    v = p.flip(v, place, live, many, AXIS) + p.softmax(v, place, live, many, AXIS)
    v += p.axis_sum(v, place, live, many, AXIS) + p.axis_max(v, place, live, many, AXIS)
    v += p.logsumexp(v, place, live, many, AXIS) + p.element_at(v, place, live, many, -1, AXIS)
    v = tl.where(p.topk_mask(v, place, live, many, 3, AXIS), v, 0.0)
    v += p.first_row(v) if AXIS == 0 else 0.0
    tl.store(out + at, v)


@triton.jit
def over_a_row(x, out, many):
    """Roll a row, and change its layout."""
    lane = tl.arange(0, 16)[None, :]
    v = tl.load(x + lane)
    v = p.roll(v, lane, lane < many, many, 1, 1)
    tl.store(out + lane, p.to_block_layout(v, 16, tl.float32))


@triton.jit
def best_scores(x, best, places, COUNT: tl.constexpr):
    """Keep the best scores of each row."""
    row, column = tl.arange(0, 16)[:, None], tl.arange(0, 32)[None, :]
    scores, positions = p.empty_topk(16, 3, 4, tl.float32)
    for start in range(0, COUNT, 32):
        position = tl.broadcast_to(start + column, [16, 32])
        score = tl.load(x + row * COUNT + position)
        scores, positions = p.merge_topk(scores, positions, score, position, position < COUNT)
    at = row * 4 + tl.arange(0, 4)[None, :]
    tl.store(best + at, scores)
    tl.store(places + at, positions)


def cases(precision: str) -> Iterator[KernelCase]:
    """Every kernel above for float32; `precision` is that of its products."""
    two = {"x": "*fp32", "out": "*fp32"}
    axis = {**two, "many": "i32"}
    yield KernelCase("functions of one number", of_one_number, two, {})
    yield KernelCase("random numbers", random_numbers, {"seed": "*i64", "out": "*fp32"}, {})
    given = {**two, "w": "*fp32"}
    yield KernelCase("products", products, given, {"PRECISION": precision})
    for number, name in enumerate(("rows", "columns")):
        yield KernelCase(f"functions along {name}", over_an_axis, axis, {"AXIS": number})
    yield KernelCase("functions of a row", over_a_row, axis, {})
    kinds = {"x": "*fp32", "best": "*fp32", "places": "*i32"}
    yield KernelCase("best scores", best_scores, kinds, {"COUNT": 128})
