"""What generated kernels call: matrix products and functions that Triton lacks or rounds badly.

All of it runs compiled and interpreted, in float32 and float64.
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# after all positions
NEVER = tl.constexpr(2**31 - 1)


@triton.jit
def product(a, w, total, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """total + a @ w, `a` rounded to the weight's dtype as torch would.

    UPCAST is for the interpreter, whose 16-bit products are wrong; numbers stay those of 16 bits.
    """
    a = a.to(w.dtype)
    if UPCAST:
        a = a.to(tl.float32)
        w = w.to(tl.float32)
    return tl.dot(a, w, total, input_precision=PRECISION, out_dtype=total.dtype)


@triton.jit
def parted_product(a, w, total, rest, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    """total + rest + a @ w: of float32 in three parts of bfloat16 each, which add up to all of its
    digits, the six products above 2^-26 of the whole. The largest goes to `total`, those left to
    `rest`.

    The parts of a weight take 6 bytes a number of shared memory, those of TF32 8: an LSTM of 1024
    units stays there (sm_90, 128 blocks, 208 KB). Of 512 units, backward: 243 registers, no spill,
    where three products of TF32 spill 8 (Triton 3.9).
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
def unparted(total, rest):
    """What `parted_product` has added up. Where a number is infinite its other parts are none."""
    return total + tl.where(rest == rest, rest, 0.0)


@triton.jit
def quarters(x):
    """The four parts of a tile whose columns go in turn, two of each."""
    x = x.reshape([x.shape[0], x.shape[1] // 8, 2, 2, 2]).permute(0, 1, 4, 2, 3)
    left, right = tl.split(x.reshape([x.shape[0], x.shape[1] * 2, 2, 2]))
    first, third = tl.split(left)
    second, fourth = tl.split(right)
    return first, second, third, fourth


@triton.jit
def halves(x):
    """The two parts of a tile whose columns go in turn, two of each."""
    x = x.reshape([x.shape[0], x.shape[1] // 4, 2, 2]).permute(0, 1, 3, 2)
    return tl.split(x.reshape([x.shape[0], x.shape[1] * 2, 2]))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return 1 / (1 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Accurate near zero too, where the quotient cancels: there by its series."""
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
    """log(1 + x), the rounding of 1 + x made good (Kahan)."""
    u = 1 + x
    d = u - 1
    safe = tl.where(d == 0, 1.0, d).to(x.dtype)
    return tl.where(d == 0, x, tl.where(u == float("inf"), u, tl.log(u) * (x / safe)))


@triton.jit
def expm1(x):
    """exp(x) - 1, accurate near zero (Kahan)."""
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
    """-1, 0 or 1; of NaN, 0, as torch has it."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def nearest(x):
    """The nearest whole number, of two the even one, as torch rounds."""
    low = tl.floor(x)
    part = x - low
    odd = low - 2 * tl.floor(low * 0.5)
    up = (part > 0.5) | ((part == 0.5) & (odd > 0.5))
    return tl.where(up, low + 1, low)


@triton.jit
def power(x, p):
    """x to the power p, its whole part below 32 by multiplication, what is left by logarithms.

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
    """Numbers in [0, 1), each by its place alone: Philox, ten rounds (Salmon et al. 2011)."""
    return tl.rand(seed, at.to(tl.int64)).to(ACC)


@triton.jit
def normal(seed, at, ACC: tl.constexpr):
    """Numbers of N(0, 1), each by its place alone (Box and Muller 1958)."""
    return tl.randn(seed, at.to(tl.int64)).to(ACC)


@triton.jit
def dropout(seed, at, p, ACC: tl.constexpr):
    """0 with probability p, else 1 / (1 - p), each by its place alone."""
    kept = tl.rand(seed, at.to(tl.int64)) >= p
    return tl.where(kept, 1 / (1 - p) if p < 1 else 0.0, 0.0).to(ACC)


@triton.jit
def remainder(a, b):
    """What is left of a over b, with the sign of b."""
    left = a % b
    return tl.where((left != 0) & ((left < 0) != (b < 0)), left + b, left)


@triton.jit
def floored(a, b):
    """How many times b goes into a, rounded down, as Python and torch have it."""
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
def unfilled(ROWS: tl.constexpr, TOP: tl.constexpr, KEEP: tl.constexpr, ACC: tl.constexpr):
    """Lists of TOP numbers a row that anything is better than, and of their positions.

    No two positions are alike. What KEEP, a power of two, has besides is better than anything.
    """
    slot = tl.arange(0, KEEP)[None, :]
    best = tl.where(slot < TOP, float("-inf"), float("inf")).to(ACC)
    places = tl.where(slot < TOP, NEVER - 1 - slot, -1 - slot)
    return tl.broadcast_to(best, [ROWS, KEEP]), tl.broadcast_to(places, [ROWS, KEEP])


@triton.jit
def kept(best, places, score, place, there):
    """Lists of the best numbers of each row, and their positions, with a tile taken in.

    Of equal numbers the earlier position is the better; NaN counts as infinite. Each round puts the
    best of the tile that is left in place of the worst of the list, until no row's list gains.
    """
    score = tl.where(score != score, float("inf"), score)
    score = tl.where(there, score, float("-inf"))
    place = tl.where(there, place.to(tl.int32), NEVER)
    going = 1
    while going > 0:
        most = tl.max(score, 1)[:, None]
        first = tl.min(tl.where(score == most, place, NEVER), 1)[:, None]
        least = tl.min(best, 1)[:, None]
        last = tl.max(tl.where(best == least, places, -NEVER), 1)[:, None]
        better = (most > least) | ((most == least) & (first < last))
        out = better & (places == last)
        best = tl.where(out, most, best)
        places = tl.where(out, first, places)
        taken = place == first
        score = tl.where(taken, float("-inf"), score)
        place = tl.where(taken, NEVER, place)
        going = tl.max(better.to(tl.int32))
    return best, places


@triton.jit
def level(x, top):
    """Whether numbers equal the largest of them, but for 64 roundings."""
    slack = 2.0**-46 if x.dtype == tl.float64 else 2.0**-17
    return (x == top) | (x >= top - tl.abs(top) * slack)


# Of all lanes, the rows of a tile: `live` tells those that count, `many` how many they are.


@triton.jit
def single(x):
    """One of rows that are all alike: the first."""
    first = tl.arange(0, x.shape[0])[:, None] == 0
    return tl.sum(tl.where(first, x, 0.0), 0, keep_dims=True)


@triton.jit
def apart(x, ROWS: tl.constexpr, ACC: tl.constexpr):
    """The same, in the layout of tiles of all lanes: in that of a matrix product every warp holds
    all of them.

    It is that of a gather along ROWS lanes, in which `moved` has lines: were it another, tiles that
    meet both are held twice (a Neural Turing Machine of 128 slots, sm_90, bf16, 8 warps: 56 changes
    of layout a step instead of 43).
    """
    if x.dtype == ACC:
        whole = tl.broadcast_to(x, [ROWS, x.shape[1]])
        found = tl.gather(whole, tl.full([ROWS, x.shape[1]], 0, tl.int32), 0)
        first = tl.arange(0, ROWS)[:, None] == 0
        x = tl.sum(tl.where(first, found, 0.0), 0, keep_dims=True)
    return x


@triton.jit
def total(x, lane, live, many, AXIS: tl.constexpr):
    """The sum over the lanes."""
    return tl.sum(tl.where(live, x, 0.0), AXIS, keep_dims=True)


@triton.jit
def largest(x, lane, live, many, AXIS: tl.constexpr):
    """The largest of the lanes; 0 where there is none."""
    filled = tl.where(live, x, float("-inf"))
    top = tl.max(filled, AXIS, keep_dims=True)
    unknown = tl.max(tl.where(live & (x != x), 1, 0), AXIS, keep_dims=True)
    top = tl.where(unknown == 1, float("nan"), top)
    return tl.where(many > 0, top, 0.0).to(x.dtype)


@triton.jit
def softmax(x, lane, live, many, AXIS: tl.constexpr):
    """exp(x) as a share of its sum over the lanes; zeros where nothing is above -inf."""
    filled = tl.where(live, x, float("-inf"))
    top = tl.max(filled, AXIS, keep_dims=True)
    raised = tl.exp(filled - tl.where(tl.abs(top) < float("inf"), top, 0.0))
    added = tl.sum(raised, AXIS, keep_dims=True)
    return raised / tl.where(added == 0, 1.0, added)


@triton.jit
def logsumexp(x, lane, live, many, AXIS: tl.constexpr):
    """log of the sum of exp(x) over the lanes."""
    filled = tl.where(live, x, float("-inf"))
    top = tl.max(filled, AXIS, keep_dims=True)
    top = tl.where(tl.abs(top) < float("inf"), top, 0.0)
    return tl.log(tl.sum(tl.exp(filled - top), AXIS, keep_dims=True)) + top


@triton.jit
def moved(x, lane, live, many, shift, AXIS: tl.constexpr):
    """Each lane as the one `shift` before it was, around the end; those beyond stay."""
    place = ((lane - shift) % many + many) % many
    place = tl.where(live, place, lane).to(tl.int32)
    # a line is gathered in as many copies as there are warps: laid out so, tiles that it meets are
    # held once, not by every warp
    HEIGHT: tl.constexpr = 8 if AXIS == 1 else x.shape[0]
    whole = tl.broadcast_to(x, [HEIGHT, x.shape[1]])
    found = tl.gather(whole, tl.broadcast_to(place, [HEIGHT, x.shape[1]]), AXIS)
    if AXIS == 1:  # one return: the compiler looks at what follows another, and minds its type
        first = tl.arange(0, HEIGHT)[:, None] == 0
        found = tl.sum(tl.where(first, found, 0.0), 0, keep_dims=True)
    return found


@triton.jit
def turned(x, lane, live, many, AXIS: tl.constexpr):
    """The lanes in reverse; those beyond stay."""
    place = tl.where(live, many - 1 - lane, lane).to(tl.int32)
    return tl.gather(x, tl.broadcast_to(place, [x.shape[0], x.shape[1]]), AXIS)


@triton.jit
def picked(x, lane, live, many, position, AXIS: tl.constexpr):
    """One lane, counted from the end where negative; 0 where there is none."""
    place = tl.where(position < 0, many + position, position)
    return tl.sum(tl.where(live & (lane == place), x, 0.0), AXIS, keep_dims=True)


@triton.jit
def best(x, lane, live, many, k, AXIS: tl.constexpr):
    """True at the `k` largest lanes, of equal ones the earlier; NaN is as large as infinity."""
    score = tl.where(x == x, x, float("inf"))
    chosen = x != x
    chosen = chosen & (chosen == 0)
    for _ in range(k):
        left = live & (chosen == 0)
        top = tl.max(tl.where(left, score, float("-inf")), AXIS, keep_dims=True)
        place = tl.min(tl.where(left & (score == top), lane, many), AXIS, keep_dims=True)
        chosen = chosen | (left & (lane == place))
    return chosen
