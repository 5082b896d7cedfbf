"""Device functions for generated kernels: matmuls, and functions that Triton lacks or rounds badly.

All of them run compiled and interpreted, in float32 and float64.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# a position behind all others
LAST_POSITION = tl.constexpr(2**31 - 1)


@triton.jit
def matmul(a, w, total, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """Return total + a @ w, with `a` rounded to the weight's dtype as in torch.

    UPCAST is for the interpreter, whose 16-bit matmuls are wrong; values stay 16-bit values.
    """
    a = a.to(w.dtype)
    if UPCAST:
        a = a.to(tl.float32)
        w = w.to(tl.float32)
    return tl.dot(a, w, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def matmul_bf16x3(a, w, total, rest, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """Return total + rest + a @ w as two sums: float32 matmuls split into bfloat16 parts.

    Each operand is three bfloat16 parts, which add up to all of its digits. The six products above
    2^-26 of the whole are computed: the largest is added to `total`, the others to `rest`.

    The parts of a weight need 6 bytes of shared memory, those of TF32 8: the weights of an LSTM of
    1024 units stay there (sm_90, 128 blocks, 208 KB). With 512 units, backward, it uses 243
    registers and does not spill; three products of TF32 spill 8 (Triton 3.9).
    """
    if PRECISION != "tf32x3":
        a = a.to(w.dtype)
        if UPCAST:
            a, w = a.to(tl.float32), w.to(tl.float32)
        return tl.dot(a, w, total, input_precision=PRECISION, out_dtype=total.dtype), rest
    a1, w1 = a.to(tl.bfloat16), w.to(tl.bfloat16)
    a, w = a.to(tl.float32) - a1.to(tl.float32), w - w1.to(tl.float32)
    a2, w2 = a.to(tl.bfloat16), w.to(tl.bfloat16)
    a3 = (a - a2.to(tl.float32)).to(tl.bfloat16)
    w3 = (w - w2.to(tl.float32)).to(tl.bfloat16)
    if UPCAST:
        a1, a2, a3 = a1.to(tl.float32), a2.to(tl.float32), a3.to(tl.float32)
        w1, w2, w3 = w1.to(tl.float32), w2.to(tl.float32), w3.to(tl.float32)
    rest = tl.dot(a3, w1, rest)
    rest = tl.dot(a1, w3, rest)
    rest = tl.dot(a2, w2, rest)
    rest = tl.dot(a2, w1, rest)
    rest = tl.dot(a1, w2, rest)
    return tl.dot(a1, w1, total), rest


@triton.jit
def sum_bf16x3(total, rest):
    """Return the sum of both results of `matmul_bf16x3`. Parts of an infinite value are NaN."""
    return total + tl.where(rest == rest, rest, 0.0)


@triton.jit
def deinterleave4(x):
    """Return the four parts of a tile whose columns alternate between them, two at a time."""
    x = x.reshape([x.shape[0], x.shape[1] // 8, 2, 2, 2]).permute(0, 1, 4, 2, 3)
    left, right = tl.split(x.reshape([x.shape[0], x.shape[1] * 2, 2, 2]))
    first, third = tl.split(left)
    second, fourth = tl.split(right)
    return first, second, third, fourth


@triton.jit
def deinterleave2(x):
    """Return the two parts of a tile whose columns alternate between them, two at a time."""
    x = x.reshape([x.shape[0], x.shape[1] // 4, 2, 2]).permute(0, 1, 3, 2)
    return tl.split(x.reshape([x.shape[0], x.shape[1] * 2, 2]))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Return tanh(x), near zero by its series, where the quotient would cancel."""
    size = tl.abs(x)
    small = tl.exp(-2 * size)
    far = (1 - small) / (1 + small)
    s = x * x
    # what is left out is below 1e-8 of x for float32 at 0.25, below 1e-17 for float64 at 0.1
    tail = 2 / 15 + s * (-17 / 315 + s * (62 / 2835))
    if x.dtype == tl.float64:
        rest = -1382 / 155925 + s * (21844 / 6081075 - s * (929569 / 638512875))
        tail = 2 / 15 + s * (-17 / 315 + s * (62 / 2835 + s * rest))
    limit = 0.1 if x.dtype == tl.float64 else 0.25
    near = x + x * s * (-1 / 3 + s * tail)
    return tl.where(size < limit, near, tl.where(x < 0, -far, far))


@triton.jit
def log1p(x):
    """Return log(1 + x), corrected for the rounding of 1 + x (Kahan)."""
    u = 1 + x
    d = u - 1
    safe = tl.where(d == 0, 1.0, d).to(x.dtype)
    return tl.where(d == 0, x, tl.where(u == float("inf"), u, tl.log(u) * (x / safe)))


@triton.jit
def expm1(x):
    """Return exp(x) - 1, accurate near zero (Kahan)."""
    u = tl.exp(x)
    d = u - 1
    safe = tl.where((d == 0) | (d == -1) | (u == u * 0.5), 2.0, u).to(x.dtype)
    near = d * (x / tl.log(safe))
    return tl.where(d == 0, x, tl.where((d == -1) | (u == u * 0.5), d, near))


@triton.jit
def sinh(x):
    """Hyperbolic sine: near zero from expm1, elsewhere from exp(|x| / 2), which overflows late."""
    size = tl.abs(x)
    raised = expm1(tl.where(size < 1, x, 0.0).to(x.dtype))
    near = 0.5 * (raised + raised / (raised + 1))
    half = tl.exp(size * 0.5)
    far = 0.5 * half * half - 0.5 / half / half
    return tl.where(size < 1, near, tl.where(x < 0, -far, far))


@triton.jit
def cosh(x):
    """Hyperbolic cosine, from exp(|x| / 2), which overflows late."""
    half = tl.exp(tl.abs(x) * 0.5)
    return 0.5 * half * half + 0.5 / half / half


@triton.jit
def asinh(x):
    """Inverse hyperbolic sine: log1p near zero, and a logarithm of |x| where x * x may overflow."""
    size = tl.abs(x)
    a = tl.where(size < 1.0e9, size, 0.0).to(x.dtype)
    square = a * a
    near = log1p(a + square / (1 + tl.sqrt(1 + square)))
    far = tl.log(tl.where(size < 1.0e9, 1.0, size).to(x.dtype)) + 0.6931471805599453
    found = tl.where(size < 1.0e9, near, far)
    found = tl.where(x < 0, -found, found)
    return tl.where((x == 0) | (x != x), x, found)


@triton.jit
def acosh(x):
    """Inverse hyperbolic cosine, by log1p of x - 1; NaN below 1."""
    over = tl.where(x < 1.0e9, x - 1, 0.0).to(x.dtype)
    near = log1p(over + tl.sqrt(over * (over + 2)))
    far = tl.log(tl.where(x < 1.0e9, 1.0, x).to(x.dtype)) + 0.6931471805599453
    return tl.where((x < 1.0e9) | (x != x), tl.where(x >= 1, near, float("nan")), far).to(x.dtype)


@triton.jit
def atanh(x):
    """Inverse hyperbolic tangent, by log1p; infinite at -1 and 1."""
    size = tl.abs(x)
    found = 0.5 * log1p(2 * size / (1 - size))
    return tl.where(x < 0, -found, found)


@triton.jit
def sign(x):
    """Return -1, 0 or 1; 0 for NaN, as in torch."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def round_half_even(x):
    """Return the nearest integer, ties to even, as torch rounds."""
    low = tl.floor(x)
    part = x - low
    odd = low - 2 * tl.floor(low * 0.5)
    up = (part > 0.5) | ((part == 0.5) & (odd > 0.5))
    return tl.where(up, low + 1, low)


@triton.jit
def power(x, p):
    """Return x to the power p: the integer part of p below 32 by products, the rest by logarithms.

    Of negative x only whole p give numbers; -0 is taken for 0.
    """
    size, inverse = tl.abs(x), p < 0
    count = tl.where(tl.abs(p) < 32, tl.floor(tl.abs(p)), 0.0).to(p.dtype)
    rest = tl.where(inverse, p + count, p - count)
    square = size
    made = tl.full([1], 1.0, x.dtype)
    for _ in tl.static_range(5):
        half = tl.floor(count * 0.5)
        made = made * tl.where(count - 2 * half == 1, square, 1.0)
        square = square * square
        count = half
    made = tl.where(inverse, 1 / made, made)
    left = tl.exp(tl.where(size == 1, 0.0, rest * tl.log(size)))
    made = made * tl.where(rest == 0, 1.0, left)
    whole = tl.floor(p) == p
    odd = p - 2 * tl.floor(p * 0.5) == 1
    none = (x < 0) & (x > float("-inf")) & (whole == 0)
    made = tl.where((x < 0) & odd & whole, -made, made)
    return tl.where(none, float("nan"), made).to(x.dtype)


@triton.jit
def uniform(seed, at, ACC: tl.constexpr):
    """Return numbers in [0, 1) from their counters: Philox, ten rounds (Salmon et al. 2011)."""
    return tl.rand(seed, at.to(tl.int64)).to(ACC)


@triton.jit
def normal(seed, at, ACC: tl.constexpr):
    """Return numbers from N(0, 1) from their counters (Box and Muller 1958)."""
    return tl.randn(seed, at.to(tl.int64)).to(ACC)


@triton.jit
def dropout(seed, at, p, ACC: tl.constexpr):
    """Return 0 with probability p, else 1 / (1 - p), from the counters."""
    kept = tl.rand(seed, at.to(tl.int64)) >= p
    return tl.where(kept, 1 / (1 - p) if p < 1 else 0.0, 0.0).to(ACC)


@triton.jit
def remainder(a, b):
    """Return the remainder of a / b, with the sign of b."""
    left = a % b
    return tl.where((left != 0) & ((left < 0) != (b < 0)), left + b, left)


@triton.jit
def floor_divide(a, b):
    """Return a / b rounded down, as in Python and torch."""
    left = a % b
    down = (left != 0) & ((left < 0) != (b < 0))
    if a.dtype.is_int():
        low = (a - tl.where(down, left + b, left)) // b
    else:
        count = (a - left) / b
        count = tl.where(down, count - 1, count)
        low = tl.floor(count)
        low = tl.where(count - low > 0.5, low + 1, low)
        low = tl.where(b == 0, a / b, low)
    return low


@triton.jit
def empty_topk(ROWS: tl.constexpr, TOP: tl.constexpr, KEEP: tl.constexpr, ACC: tl.constexpr):
    """Return lists of TOP scores per row that any score beats, and their positions.

    All positions differ. The lists have KEEP slots, a power of two; no score beats the other slots.
    """
    slot = tl.arange(0, KEEP)[None, :]
    best = tl.where(slot < TOP, float("-inf"), float("inf")).to(ACC)
    places = tl.where(slot < TOP, LAST_POSITION - 1 - slot, -1 - slot)
    return tl.broadcast_to(best, [ROWS, KEEP]), tl.broadcast_to(places, [ROWS, KEEP])


@triton.jit
def merge_topk(scores, positions, score, position, valid):
    """Merge a tile of scores into the lists of the best scores of each row and their positions.

    Of equal scores the earlier position is better; NaN counts as infinite. Each round replaces the
    worst entry of a list by the best score left in the tile, until no row's list improves.
    """
    score = tl.where(score != score, float("inf"), score)
    score = tl.where(valid, score, float("-inf"))
    position = tl.where(valid, position.to(tl.int32), LAST_POSITION)
    improving = 1
    while improving > 0:
        top = tl.max(score, 1)[:, None]
        first = tl.min(tl.where(score == top, position, LAST_POSITION), 1)[:, None]
        worst = tl.min(scores, 1)[:, None]
        last = tl.max(tl.where(scores == worst, positions, -LAST_POSITION), 1)[:, None]
        better = (top > worst) | ((top == worst) & (first < last))
        replaced = better & (positions == last)
        scores = tl.where(replaced, top, scores)
        positions = tl.where(replaced, first, positions)
        taken = position == first
        score = tl.where(taken, float("-inf"), score)
        position = tl.where(taken, LAST_POSITION, position)
        improving = tl.max(better.to(tl.int32))
    return scores, positions


@triton.jit
def piece_of(x, NUMBER: tl.constexpr, COUNT: tl.constexpr):
    """Return a piece of the columns of a tile, of COUNT equal ones."""
    pieces = tl.reshape(x, [x.shape[0], COUNT, x.shape[1] // COUNT])
    this = tl.arange(0, COUNT)[None, :, None] == NUMBER
    return tl.sum(tl.where(this, pieces, 0.0), 1).to(x.dtype)


@triton.jit
def nan_max(x, AXIS: tl.constexpr):
    """Return the maximum over one dimension; NaN if an element is, as in torch.

    `tl.max` would ignore NaN: `max.f32` returns its other operand (PTX ISA, max).
    """
    top = tl.max(tl.where(x == x, x, float("-inf")), AXIS)
    unknown = tl.max((x != x).to(tl.int32), AXIS)
    return tl.where(unknown == 1, float("nan"), top).to(x.dtype)


@triton.jit
def close_to_max(x, top):
    """Return whether values equal the maximum `top`, up to 64 rounding errors."""
    slack = 2.0**-46 if x.dtype == tl.float64 else 2.0**-17
    return (x == top) | (x >= top - tl.abs(top) * slack)


# Functions over the block axis, whose positions are the rows of a tile: `lane` is the position,
# `live` whether it exists, `many` the length of the axis.


@triton.jit
def first_row(x):
    """Return the first row of a tile whose rows are all equal."""
    first = tl.arange(0, x.shape[0])[:, None] == 0
    return tl.sum(tl.where(first, x, 0.0), 0, keep_dims=True)


@triton.jit
def to_block_layout(x, ROWS: tl.constexpr, ACC: tl.constexpr):
    """Return a row in the layout of tiles over the block axis; a matmul leaves all of it per warp.

    It is the layout of a gather along ROWS positions, as in `roll`. With another layout, tiles
    that are combined with both exist twice (a Neural Turing Machine of 128 slots, sm_90, bf16, 8
    warps: 56 changes of layout per step instead of 43).
    """
    if x.dtype == ACC:
        whole = tl.broadcast_to(x, [ROWS, x.shape[1]])
        found = tl.gather(whole, tl.full([ROWS, x.shape[1]], 0, tl.int32), 0)
        first = tl.arange(0, ROWS)[:, None] == 0
        x = tl.sum(tl.where(first, found, 0.0), 0, keep_dims=True)
    return x


@triton.jit
def axis_sum(x, lane, live, many, AXIS: tl.constexpr):
    """Return the sum over the axis."""
    return tl.sum(tl.where(live, x, 0.0), AXIS, keep_dims=True)


@triton.jit
def axis_max(x, lane, live, many, AXIS: tl.constexpr):
    """Return the maximum over the axis; 0 if it is empty."""
    filled = tl.where(live, x, float("-inf"))
    top = tl.max(filled, AXIS, keep_dims=True)
    unknown = tl.max(tl.where(live & (x != x), 1, 0), AXIS, keep_dims=True)
    top = tl.where(unknown == 1, float("nan"), top)
    return tl.where(many > 0, top, 0.0).to(x.dtype)


@triton.jit
def softmax(x, lane, live, many, AXIS: tl.constexpr):
    """Return the softmax over the axis; zeros if all values are -inf."""
    filled = tl.where(live, x, float("-inf"))
    top = tl.max(filled, AXIS, keep_dims=True)
    raised = tl.exp(filled - tl.where(tl.abs(top) < float("inf"), top, 0.0))
    added = tl.sum(raised, AXIS, keep_dims=True)
    return raised / tl.where(added == 0, 1.0, added)


@triton.jit
def logsumexp(x, lane, live, many, AXIS: tl.constexpr):
    """Return the log of the sum of exp(x) over the axis."""
    filled = tl.where(live, x, float("-inf"))
    top = tl.max(filled, AXIS, keep_dims=True)
    top = tl.where(tl.abs(top) < float("inf"), top, 0.0)
    return tl.log(tl.sum(tl.exp(filled - top), AXIS, keep_dims=True)) + top


@triton.jit
def roll(x, lane, live, many, shift, AXIS: tl.constexpr):
    """Return the values rolled by `shift` positions; positions beyond the axis stay."""
    place = ((lane - shift) % many + many) % many
    place = tl.where(live, place, lane).to(tl.int32)
    # A row is gathered in one copy per warp. In this layout, tiles combined with it exist once, not
    # in every warp.
    HEIGHT: tl.constexpr = 8 if AXIS == 1 else x.shape[0]
    whole = tl.broadcast_to(x, [HEIGHT, x.shape[1]])
    found = tl.gather(whole, tl.broadcast_to(place, [HEIGHT, x.shape[1]]), AXIS)
    if AXIS == 1:  # a single return: the compiler also checks types behind a first one
        first = tl.arange(0, HEIGHT)[:, None] == 0
        found = tl.sum(tl.where(first, found, 0.0), 0, keep_dims=True)
    return found


@triton.jit
def flip(x, lane, live, many, AXIS: tl.constexpr):
    """Return the values in reverse order; positions beyond the axis stay."""
    place = tl.where(live, many - 1 - lane, lane).to(tl.int32)
    return tl.gather(x, tl.broadcast_to(place, [x.shape[0], x.shape[1]]), AXIS)


@triton.jit
def element_at(x, lane, live, many, position, AXIS: tl.constexpr):
    """Return the value at one position, from the end if negative; 0 if it does not exist."""
    place = tl.where(position < 0, many + position, position)
    return tl.sum(tl.where(live & (lane == place), x, 0.0), AXIS, keep_dims=True)


@triton.jit
def topk_mask(x, lane, live, many, k, AXIS: tl.constexpr):
    """Return True at the `k` largest values; the first of equal ones; NaN counts as infinity."""
    score = tl.where(x == x, x, float("inf"))
    chosen = x != x
    chosen = chosen & (chosen == 0)
    for _ in range(k):
        left = live & (chosen == 0)
        top = tl.max(tl.where(left, score, float("-inf")), AXIS, keep_dims=True)
        place = tl.min(tl.where(left & (score == top), lane, many), AXIS, keep_dims=True)
        chosen = chosen | (left & (lane == place))
    return chosen
