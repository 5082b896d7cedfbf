"""Products of matrices against numpy; where numbers lie is written out here from the PTX ISA."""

import numpy as np
import pytest

from graphnn.kernels.ptx.arithmetic import formats, fragments, groups
from graphnn.kernels.ptx.arithmetic.products import ADDERS, accumulate

# overflow and NaN are results
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
WARPS = 3
NAMES = {"f64": 8, "tf32": 4, "f16": 2, "bf16": 2, "s8": 1, "u8": 1, "e4m3": 1, "e5m2": 1}


# ---- the formulas of sections 9.7.14.5.2 to 9.7.14.5.10, one per shape and type


def group(lane):
    return lane >> 2


def place(lane):
    return lane % 4


def a_row_column(shape, size, lane, i):
    """Row and column of the i-th number of A of a lane."""
    m, _, k = shape
    g, t = group(lane), place(lane)
    if size == 8:
        if m == 8:
            return g, t
        row = g if i % 2 == 0 else g + 8
        column = t + {4: (0, 0), 8: (0, 0, 4, 4), 16: (0, 0, 4, 4, 8, 8, 12, 12)}[k][i]
        return row, column
    if size == 4:
        return (g if i % 2 == 0 else g + 8), t + (4 if i >= 2 else 0)
    if size == 2:
        if k == 8:
            return (g if i < 2 else g + 8), t * 2 + (i & 1)
        row = g if i < 2 or 4 <= i < 6 else g + 8
        return row, t * 2 + (i & 1) + (8 if i >= 4 else 0)
    if m == 8:
        return g, t * 4 + i
    if k == 16:
        return (g if i < 4 else g + 8), t * 4 + (i & 3)
    row = g if i < 4 or 8 <= i < 12 else g + 8
    return row, t * 4 + (i & 3) + (16 if i >= 8 else 0)


def b_row_column(shape, size, lane, i):
    """Row and column of the i-th number of B of a lane."""
    g, t = group(lane), place(lane)
    if size >= 4:
        return t + 4 * i, g
    if size == 2:
        return t * 2 + (i & 1) + (8 if i >= 2 else 0), g
    return t * 4 + (i & 3) + (16 if i >= 4 else 0), g


def c_row_column(shape, lane, i):
    """Row and column of the i-th number of C of a lane."""
    g, t = group(lane), place(lane)
    return g + (8 if i >= 2 else 0), t * 2 + (i & 1)


SHAPES = [
    ("f64", "f64", (8, 8, 4)),
    *[("f64", "f64", (16, 8, k)) for k in (4, 8, 16)],
    *[("tf32", "f32", (16, 8, k)) for k in (4, 8)],
    *[(t, "f32", (16, 8, k)) for t in ("f16", "bf16") for k in (8, 16)],
    ("f16", "f16", (16, 8, 16)),
    ("s8", "s32", (8, 8, 16)),
    *[(t, "s32", (16, 8, k)) for t in ("s8", "u8") for k in (16, 32)],
    *[(t, "f32", (16, 8, 32)) for t in ("e4m3", "e5m2")],
]


def draw(kind, shape, seed):
    """Small whole numbers of a type: their bits, and their values in float64."""
    rng = np.random.default_rng(seed)
    low = 0 if kind == "u8" else -4
    values = rng.integers(low, 5, shape).astype(np.float64)
    if kind in ("s8", "u8", "s32"):
        return values.astype(formats.DTYPES[kind]), values
    return formats.encode(values, kind), values


def packed(numbers, size):
    """Numbers of each lane, (threads, count), as registers."""
    if size == 8:
        return [np.ascontiguousarray(numbers[:, j]) for j in range(numbers.shape[1])]
    words = np.ascontiguousarray(numbers).view(np.uint32)
    return [np.ascontiguousarray(words[:, j]) for j in range(words.shape[1])]


def held(matrices, count, where):
    """What the lanes of every warp hold of a stack of matrices, (threads, count)."""
    found = [[m[where(lane, i)] for i in range(count)] for m in matrices for lane in range(32)]
    return np.array(found, matrices.dtype)


def operands(kind, result, shape):
    m, n, k = shape
    size = NAMES[kind]
    a, left = draw(kind, (WARPS, m, k), 0)
    b, right = draw(kind, (WARPS, k, n), 1)
    c, total = draw(result, (WARPS, m, n), 2)
    ra = packed(held(a, m * k // 32, lambda t, i: a_row_column(shape, size, t, i)), size)
    rb = packed(held(b, k * n // 32, lambda t, i: b_row_column(shape, size, t, i)), size)
    own = held(c, m * n // 32, lambda t, i: c_row_column(shape, t, i))
    rc = packed(own, 2) if result == "f16" else [own[:, j].copy() for j in range(own.shape[1])]
    return (ra, rb, rc), left @ right + total


@pytest.mark.parametrize("kind, result, shape", SHAPES)
def test_products(kind, result, shape):
    m, n, k = shape
    name = f"m{m}n{n}k{k}"
    spec = fragments.parse(("sync", "aligned", name, "row", "col", result, kind, kind, result))
    given, want = operands(kind, result, shape)
    got = fragments.multiply(spec, *given)
    lanes = held(want, m * n // 32, lambda t, i: c_row_column(shape, t, i))
    if result == "f16":
        numbers = np.stack(got, 1).view(np.float16)
    else:
        assert got[0].dtype == formats.DTYPES[result]
        numbers = np.stack(got, 1)
    assert np.array_equal(numbers, lanes)


def test_tf32_operands_are_cut():
    spec = fragments.parse(("sync", "m16n8k8", "row", "col", "f32", "tf32", "tf32", "f32"))
    full = np.full(32, 1 + 2.0**-11, np.float32).view(np.uint32)
    got = fragments.multiply(spec, [full] * 4, [full] * 2, [np.zeros(32, np.float32)] * 4)
    assert (np.stack(got) == 8).all()


def test_integer_products_wrap_or_saturate():
    ones = np.full(32, 0x7F7F7F7F, np.uint32)
    top = np.full(32, 2**31 - 1, np.int32)
    for flags, want in (((), 2**31 - 1 + 32 * 127**2 - 2**32), (("satfinite",), 2**31 - 1)):
        words = ("sync", "aligned", "m16n8k32", "row", "col", *flags, "s32", "s8", "s8", "s32")
        got = fragments.multiply(fragments.parse(words), [ones] * 4, [ones] * 2, [top] * 4)
        assert all((x == want).all() for x in got)


@pytest.mark.parametrize(
    "text",
    [
        "sync.aligned.m8n8k4.row.col.f32.f16.f16.f32",
        "sync.aligned.m16n8k16.row.col.f32.f16.f16.f16",
        "sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
        "sync.aligned.m16n8k64.row.col.s32.s4.s4.s32",
        "sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32",
    ],
)
def test_forms_that_are_not_modelled_are_refused(text):
    with pytest.raises(ValueError, match="not modelled"):
        fragments.parse(tuple(text.split(".")))


# ---- truncating adders


@pytest.mark.parametrize("target", ADDERS)
def test_truncating_adders_err_toward_zero_and_little(target):
    rng = np.random.default_rng(0)
    a, b = (np.abs(rng.standard_normal((4, 16, 16))) for _ in range(2))
    a, b = (formats.round_to(x, "bf16") for x in (a, b))
    c = np.zeros((4, 16, 16))
    exact = accumulate(a, b, c, "bf16", "f32", None)
    cut = accumulate(a, b, c, "bf16", "f32", ADDERS[target])
    error = (cut - exact) / np.spacing(exact.astype(np.float32))
    assert (error <= 0).all() and (error < 0).any()
    # each of the terms and the results of both passes lose less than a unit of their place
    assert error.min() > -8


def test_a_term_below_the_kept_bits_is_lost():
    """By hand: 1 + 2^-24 + 2^-24 keeps both terms with 24 bits, and 2^-25 none."""
    adder = ADDERS["sm_80"]
    a = np.array([[1.0, 2.0**-24, 2.0**-24, 0]])
    b, c = np.ones((4, 1)), np.zeros((1, 1))
    assert accumulate(a, b, c, "bf16", "f32", adder).item() == 1 + 2.0**-23
    assert accumulate(a * [1, 0.5, 1, 1], b, c, "bf16", "f32", adder).item() == 1.0
    assert accumulate(-a, b, c, "bf16", "f32", adder).item() == -1 - 2.0**-23
    # sm_90 keeps one bit more
    assert accumulate(a * [1, 0.5, 1, 1], b, c, "bf16", "f32", ADDERS["sm_90"]).item() == 1.0
    half = np.array([[1.0, 2.0**-25, 2.0**-25, 2.0**-24]])
    assert accumulate(half, b, c, "bf16", "f32", ADDERS["sm_90"]).item() == 1 + 2.0**-23
    assert accumulate(half, b, c, "bf16", "f32", adder).item() == 1.0


def test_whole_numbers_are_exact_in_truncating_adders():
    spec = fragments.parse(("sync", "m16n8k16", "row", "col", "f32", "bf16", "bf16", "f32"))
    given, _ = operands("bf16", "f32", (16, 8, 16))
    want = fragments.multiply(spec, *given)
    for adder in ADDERS.values():
        assert np.array_equal(fragments.multiply(spec, *given, adder), want)


@pytest.mark.parametrize("adder", [None, ADDERS["sm_80"]])
def test_infinities_and_nan_pass_through_products(adder):
    a = np.array([[np.inf, 1.0], [np.nan, 1.0], [1.0, 1.0]])
    made = accumulate(a, np.ones((2, 1)), np.full((3, 1), 2.0), "f16", "f32", adder)
    assert made[0, 0] == np.inf and np.isnan(made[1, 0]) and made[2, 0] == 4


# ---- ldmatrix and stmatrix


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_eight_by_eight_matrices(count, transposed):
    """Thread t gets numbers 2 (t % 4) and the next of row t / 4, or of that column."""
    memory = np.random.default_rng(0).integers(0, 2**16, 4096).astype(np.uint16)
    rows = np.random.default_rng(1).permutation(512)[:64].astype(np.uint32) * 16
    address = np.resize(rows, 64)
    found, width = fragments.matrix_addresses(address, count, transposed)
    assert width == (2 if transposed else 4) and found.dtype == address.dtype
    if transposed:
        parts = memory[found // 2]  # count, 2, threads
        got = np.stack([parts[:, 0], parts[:, 1]], -1)
    else:
        got = np.stack([memory[found // 2], memory[found // 2 + 1]], -1)
    for warp in range(2):
        for k in range(count):
            starts = address[32 * warp + 8 * k : 32 * warp + 8 * k + 8] // 2
            matrix = np.array([memory[s : s + 8] for s in starts])
            matrix = matrix.T if transposed else matrix
            for t in range(32):
                want = matrix[t // 4, 2 * (t % 4) : 2 * (t % 4) + 2]
                assert got[k, 32 * warp + t].tolist() == want.tolist()


# ---- wgmma


def encoded(start, leading, stride, span):
    """A descriptor of its fields in bytes."""
    mode = {16: 0, 128: 1, 64: 2, 32: 3}[span]
    return start >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32 | mode << 62


def stored(matrix, size, span, transposed, start, leading, stride, memory):
    """Write a matrix (rows, k) to memory by the canonical layouts, in units of 16 bytes.

    Each number is found by the shape and strides of the layout, as CuTe has them: T numbers per
    unit; then the swizzle of the address bits.
    """
    unit = 16 // size
    wide = span // 16
    for row in range(matrix.shape[0]):
        for k in range(matrix.shape[1]):
            if transposed:  # ((T, wide, m), (8, k))
                inner, chunk, block = row % unit, row // unit % wide, row // (unit * wide)
                line, repeat = k % 8, k // 8
                outer, other = (stride, leading) if span == 16 else (leading, stride)
                offset = inner * size + 16 * chunk + block * outer
                offset += line * 16 * wide + repeat * other
            else:  # ((8, m), (T, 2 k))
                line, repeat = row % 8, row // 8
                inner, chunk = k % unit, k // unit
                step = leading if span == 16 else 16
                offset = line * 16 * wide + repeat * stride + inner * size + chunk * step
            address = start + offset
            bits = {16: 0, 32: 1, 64: 2, 128: 3}[span]
            address ^= (address >> 7 & (1 << bits) - 1) << 4
            memory[address : address + size] = np.frombuffer(matrix[row, k].tobytes(), np.uint8)


SWIZZLED = [(span, transposed) for span in (16, 32, 64, 128) for transposed in (False, True)]


def strides(span, transposed, rows, k, size):
    """Offsets by which nothing overlaps: leading and stride."""
    if not transposed:
        return (rows * 16, 128) if span == 16 else (16, 8 * span)
    if span == 16:
        return rows * size // 16 * 128, 128
    blocks = max(rows * size // span, 1)
    return (8 * span, 8 * span * blocks)


@pytest.mark.parametrize("span, transposed", SWIZZLED)
@pytest.mark.parametrize("from_registers", [False, True])
def test_products_of_warp_groups(span, transposed, from_registers):
    """A and B in shared memory in each layout, for two warp groups."""
    n, k, size = 64, 16, 2
    spec = fragments.parse(("mma_async", "sync", "aligned", f"m64n{n}k{k}", "f32", "bf16", "bf16"))
    memory = np.full(2**17, 255, np.uint8)
    read = lambda at, width: np.ascontiguousarray(
        np.stack([memory[at + i] for i in range(width)], 1)
    ).view(f"u{width}")[:, 0]
    made_a, made_b, wants, lefts = [], [], [], []
    for warps in range(2):
        a, left = draw("bf16", (64, k), 10 + warps)
        b, right = draw("bf16", (n, k), 20 + warps)
        places = [1024 + 65536 * warps, 1024 + 65536 * warps + 32768]
        for bits, rows, begin, out in ((a, 64, places[0], made_a), (b, n, places[1], made_b)):
            leading, stride = strides(span, transposed, rows, k, size)
            stored(bits, size, span, transposed, begin, leading, stride, memory)
            out.append(encoded(begin, leading, stride, span))
        wants.append(left @ right.T)
        lefts.append(a)
    descriptors = [np.repeat(np.array(x, np.uint64), 128) for x in (made_a, made_b)]
    left = descriptors[0]
    if from_registers:
        parts = np.concatenate(lefts).reshape(8, 16, k)
        shape = (16, 8, 16)
        left = packed(held(parts, 8, lambda t, i: a_row_column(shape, 2, t, i)), 2)
    d = [np.full(256, j, np.float32) for j in range(n // 2)]
    sides = (transposed and not from_registers, transposed)
    for keep in (True, False):
        got = groups.multiply(spec, left, descriptors[1], d, read, keep, transposed=sides)
        for j, x in enumerate(got):
            for thread in range(256):
                warp, lane = thread // 32 % 4, thread % 32
                row = 16 * warp + group(lane) + 8 * (j // 2 % 2)
                column = 8 * (j // 4) + 2 * place(lane) + j % 2
                assert x[thread] == wants[thread // 128][row, column] + (j if keep else 0)


def test_signs_of_warp_group_operands():
    spec = fragments.parse(("mma_async", "sync", "aligned", "m64n8k16", "f32", "f16", "f16"))
    ones = np.full(128, 0x3C003C00, np.uint32)
    memory = np.full(4096, 0x3C00, np.uint16)
    read = lambda at, width: memory[at // 2]
    d, b = [np.zeros(128, np.float32)] * 4, np.full(128, encoded(0, 16, 256, 32), np.uint64)
    got = groups.multiply(spec, [ones] * 4, b, d, read, signs=(-1, 1))
    assert all((x == -16).all() for x in got)


def test_uninitialised_accumulators_do_not_matter_without_scale():
    spec = fragments.parse(("mma_async", "sync", "aligned", "m64n8k8", "f32", "tf32", "tf32"))
    memory = np.ones(4096, np.float32).view(np.uint32)
    read = lambda at, width: memory[at // 4]
    b = np.full(128, encoded(0, 16, 256, 32), np.uint64)
    ones = np.ones(128, np.float32).view(np.uint32)
    d = [np.full(128, np.nan, np.float32)] * 4
    got = groups.multiply(spec, [ones] * 4, b, d, read, keep=False)
    assert all((x == 8).all() for x in got)


def test_a_late_pattern_is_described_by_its_base_offset():
    """The same layout, moved by 128 bytes: base offset 1 moves the swizzle with it."""
    plain = groups.addresses(groups.descriptor(encoded(1024, 16, 1024, 128)), 8, 16, 2, False)
    moved = groups.descriptor(encoded(1024 + 128, 16, 1024, 128) | 1 << 49)
    assert np.array_equal(groups.addresses(moved, 8, 16, 2, False) - 128, plain)
