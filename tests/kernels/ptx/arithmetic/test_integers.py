"""Integer and bit instructions against Python integers, by the formulas of the PTX ISA."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphnn.kernels.ptx.arithmetic import comparisons, formats, integers

KINDS = {f"{sign}{size}": (sign, size) for sign in "us" for size in (16, 32, 64)}
WIDE = [k for k in KINDS if not k.endswith("16")]
COUNT = 300


def signed(value, size):
    """The value of the lower bits as a signed number."""
    value %= 2**size
    return value - 2**size if value >> (size - 1) else value


def typed(value, kind):
    sign, size = KINDS[kind]
    return signed(value, size) if sign == "s" else value % 2**size


def draw(kind, seed=0, small=False):
    """Random integers of a type: of every length, with the extremes."""
    _, size = KINDS[kind]
    rng = np.random.default_rng(seed)
    numbers = [int(rng.integers(0, 2**63)) * 2 + int(rng.integers(2)) for _ in range(COUNT)]
    numbers = [n >> int(rng.integers(0, 64)) for n in numbers]
    numbers = [n * int(rng.choice([-1, 1])) for n in numbers]
    numbers[:6] = [0, 1, -1, 2 ** (size - 1) - 1, 2 ** (size - 1), 7]
    if small:
        numbers = [n % 300 for n in numbers]
    return np.array([typed(n, kind) for n in numbers], formats.DTYPES[kind])


def check(kind, function, formula, *operands, result=None):
    got = function(*operands).tolist()
    want = [formula(*map(int, entry)) for entry in zip(*operands)]
    assert got == [typed(w, result or kind) for w in want]


@pytest.mark.parametrize("kind", KINDS)
def test_high_half_of_products(kind):
    size = KINDS[kind][1]
    check(kind, integers.mul_hi, lambda a, b: a * b >> size, draw(kind), draw(kind, 1))


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.endswith("64")])
def test_whole_products(kind):
    sign, size = KINDS[kind]
    wide = f"{sign}{2 * size}"
    check(kind, integers.mul_wide, lambda a, b: a * b, draw(kind), draw(kind, 1), result=wide)


@pytest.mark.parametrize("kind", ["u32", "s32"])
@pytest.mark.parametrize("part", integers.MUL24)
def test_products_of_24_bits(kind, part):
    cut = (lambda v: signed(v, 24)) if kind == "s32" else (lambda v: v % 2**24)
    shift = 16 if part == "hi" else 0
    formula = lambda a, b: cut(a) * cut(b) >> shift
    check(kind, integers.MUL24[part], formula, draw(kind), draw(kind, 1))


def truncated(a, b):
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("kind", KINDS)
def test_division(kind):
    a, b = draw(kind), draw(kind, 1)
    quotient = lambda a, b: truncated(a, b) if b else -1
    check(kind, integers.divide, quotient, a, b)
    b = np.where(b == 0, b.dtype.type(3), b)
    check(kind, integers.remainder, lambda a, b: a - truncated(a, b) * b, a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_sum_of_a_distance(kind):
    formula = lambda a, b, c: c + abs(a - b)
    check(kind, integers.sad, formula, draw(kind), draw(kind, 1), draw(kind, 2))


def test_clamped_sums():
    a, b = draw("s32"), draw("s32", 1)
    clamp = lambda v: min(max(v, -(2**31)), 2**31 - 1)
    check("s32", integers.add_sat, lambda a, b: clamp(a + b), a, b)
    check("s32", integers.sub_sat, lambda a, b: clamp(a - b), a, b)


@pytest.mark.parametrize("kind", KINDS)
def test_shifts_are_clamped(kind):
    a, count = draw(kind), draw("u32", 1, small=True)
    check(kind, integers.shift_left, lambda a, n: a << n, a, count)
    check(kind, integers.shift_right, lambda a, n: a >> n, a, count)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("wrap", [False, True])
def test_funnel_shift(left, wrap):
    def formula(a, b, c):
        n = c % 32 if wrap else min(c, 32)
        return (b << n) | (a >> (32 - n)) if left else (b << (32 - n)) | (a >> n)

    made = lambda a, b, c: integers.funnel(a, b, c, left, wrap)
    check("u32", made, formula, draw("u32"), draw("u32", 1), draw("u32", 2, small=True))


def bit(value, k):
    return value >> k & 1


@pytest.mark.parametrize("kind", WIDE)
def test_bit_fields_are_extracted(kind):
    sign, size = KINDS[kind]

    def formula(a, b, c):
        position, length = b & 255, c & 255
        filling = 0
        if sign == "s" and length:
            filling = bit(a, min(position + length - 1, size - 1))
        bits = [
            bit(a, position + i) if i < length and position + i < size else filling
            for i in range(size)
        ]
        return sum(x << i for i, x in enumerate(bits))

    a = draw(kind)
    for position, length in ((draw("u32", 1, True), draw("u32", 2, True)), (a % 40, a % 23)):
        counts = [np.abs(v).astype(np.uint32) for v in (position, length)]
        check(kind, integers.extract, formula, a, *counts)


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_bit_fields_are_inserted(kind):
    size = KINDS[kind][1]

    def formula(a, b, c, d):
        for i in range(d & 255):
            if (c & 255) + i < size:
                place = (c & 255) + i
                b = b & ~(1 << place) | bit(a, i) << place
        return b

    a, b = draw(kind), draw(kind, 1)
    for c, d in ((draw("u32", 2, True), draw("u32", 3, True)), (a % 40, b % 23)):
        check(kind, integers.insert, formula, a, b, c.astype(np.uint32), d.astype(np.uint32))


@pytest.mark.parametrize("kind", KINDS)
def test_counts_and_positions(kind):
    size = KINDS[kind][1]
    a = draw(kind)
    pattern = lambda v: v % 2**size
    check(kind, integers.population, lambda v: bin(pattern(v)).count("1"), a, result="u32")
    check(kind, integers.leading_zeros, lambda v: size - pattern(v).bit_length(), a, result="u32")
    plain = lambda v: ~v if v < 0 else v
    position = lambda v: plain(v).bit_length() - 1
    check(kind, integers.find, position, a, result="u32")
    amount = lambda v: size - 1 - position(v) if plain(v) else -1
    check(kind, lambda x: integers.find(x, True), amount, a, result="u32")


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_bits_are_reversed(kind):
    size = KINDS[kind][1]
    check(kind, integers.reverse, lambda v: int(f"{v:0{size}b}"[::-1], 2), draw(kind))


@pytest.mark.parametrize("table", [0, 0x80, 0x96, 0xE8, 0xCA, 0x3C, 0xFF])
def test_logic_of_three(table):
    def formula(a, b, c):
        return sum(bit(table, 4 * bit(a, i) + 2 * bit(b, i) + bit(c, i)) << i for i in range(32))

    made = lambda *x: integers.logic(*x, np.full(COUNT, table, np.uint32))
    check("u32", made, formula, draw("u32"), draw("u32", 1), draw("u32", 2))


# the tables of the PTX ISA: bytes 3, 2, 1, 0 of the result for c = 0, 1, 2, 3
PERMUTATIONS = {
    "f4e": ("3210", "4321", "5432", "6543"),
    "b4e": ("5670", "6701", "7012", "0123"),
    "rc8": ("0000", "1111", "2222", "3333"),
    "ecl": ("3210", "3211", "3222", "3333"),
    "ecr": ("0000", "1110", "2210", "3210"),
    "rc16": ("1010", "3232", "1010", "3232"),
}


@pytest.mark.parametrize("mode", [None, *PERMUTATIONS])
def test_bytes_are_permuted(mode):
    def formula(a, b, c):
        both = b << 32 | a
        digits = PERMUTATIONS[mode][c & 3] if mode else f"{c & 0xFFFF:04x}"
        made = 0
        for digit in digits:
            pick = int(digit, 16)
            byte = both >> 8 * (pick & 7) & 255
            spread = 255 if byte & 128 else 0
            made = made << 8 | (spread if pick & 8 else byte)
        return made

    made = lambda a, b, c: integers.permute(a, b, c, mode)
    check("u32", made, formula, draw("u32"), draw("u32", 1), draw("u32", 2))


@pytest.mark.parametrize("left", ["u32", "s32"])
@pytest.mark.parametrize("right", ["u32", "s32"])
def test_products_of_four_bytes(left, right):
    a, b = draw(left), draw(right, 1)
    result = "u32" if (left, right) == ("u32", "u32") else "s32"

    def part(value, kind, k):
        byte = value >> 8 * k & 255
        return signed(byte, 8) if kind == "s32" else byte

    formula = lambda a, b, c: c + sum(part(a, left, k) * part(b, right, k) for k in range(4))
    check(result, integers.dot4, formula, a, b, draw(result, 2))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_comparisons(a, b):
    x, y = np.array([a], np.uint32), np.array([b], np.uint32)
    want = {"eq": a == b, "ne": a != b, "lo": a < b, "ls": a <= b, "hi": a > b, "hs": a >= b}
    for name, expected in want.items():
        assert comparisons.INTEGERS[name](x, y)[0] == expected
    s, t = signed(a, 32), signed(b, 32)
    want = {"lt": s < t, "le": s <= t, "gt": s > t, "ge": s >= t}
    for name, expected in want.items():
        assert comparisons.INTEGERS[name](x.view(np.int32), y.view(np.int32))[0] == expected
