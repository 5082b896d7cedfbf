"""Floating-point arithmetic against exact fractions: every operation is rounded once."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn.kernels.ptx.arithmetic import comparisons, floats, formats
from tests.kernels.ptx.arithmetic.exact import rounded, same

# overflow and NaN are results
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")

MODES = ("rn", "rz", "rm", "rp")
KINDS = ("f32", "f16", "bf16")
SPECIAL = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 2.0**-149, -(2.0**-133)]
EXACT = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "fma": lambda a, b, c: a * b + c,
}


def numbers(kind, count, seed=0):
    """Random finite numbers of a format, all exponents alike, some tiny, equal or opposite."""
    rng = np.random.default_rng(seed)
    size = 4 if kind == "f32" else 2
    bits = rng.integers(0, 2 ** (8 * size), count).astype(formats.BITS[size])
    near = rng.standard_normal(count).astype(np.float32)
    wide = formats.decode(bits.view(formats.DTYPES[kind]), kind).astype(np.float32)
    x = np.where(rng.random(count) < 0.6, near, wide)
    x = np.where(np.isfinite(x), x, 1.0)
    return formats.encode(x.astype(np.float64), kind, "rz")


def exact(function, kind, mode, *operands):
    values = [formats.decode(x, kind).astype(np.float64) for x in operands]
    out = []
    for entry in zip(*(v.tolist() for v in values)):
        total = function(*map(Fraction, entry))
        out.append(rounded(total, kind, mode))
    return np.array(out)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXACT)
def test_one_rounding(name, kind, mode):
    count = 3 if name == "fma" else 2
    operands = [numbers(kind, 400, seed) for seed in range(count)]
    got = formats.decode(floats.ROUNDED[name](kind, mode)(*operands), kind)
    want = exact(EXACT[name], kind, mode, *operands)
    # signs of zeros are those of IEEE arithmetic, tested below
    assert np.array_equal(got, want)


def halfway(seed):
    """a, b, c in float32 with a b + c next to the middle between two float32 numbers."""
    rng = np.random.default_rng(seed)
    a = np.float32(1 + rng.integers(1, 2**12) * 2.0**-12)
    b = np.float32(1 + rng.integers(1, 2**12) * 2.0**-12)
    middle = float(a) * float(b)  # 24 bits behind the point: often halfway
    return a, b, np.float32(rng.choice([-1, 1]) * 2.0 ** -int(rng.integers(50, 140))), middle


def test_fma_of_float32_is_not_rounded_twice():
    """Adding in float64 and rounding again is wrong for some of these, as the test asserts."""
    a, b, c, _ = map(np.array, zip(*map(halfway, range(400))))
    want = exact(EXACT["fma"], "f32", "rn", a, b, c)
    assert np.array_equal(floats.fma("f32")(a, b, c), want)
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != want).any()


def test_fma_of_float32_is_right_among_subnormals():
    rng = np.random.default_rng(0)
    a = np.ldexp(rng.integers(1, 2**24, 500).astype(np.float64), -100).astype(np.float32)
    b = np.ldexp(rng.integers(1, 2**24, 500).astype(np.float64), -76).astype(np.float32)
    c = np.ldexp(rng.integers(-64, 64, 500).astype(np.float64), -149).astype(np.float32)
    assert np.array_equal(floats.fma("f32")(a, b, c), exact(EXACT["fma"], "f32", "rn", a, b, c))


@given(*[st.floats(allow_nan=True, allow_infinity=True)] * 3)
@settings(max_examples=250)
def test_fma_of_float64(a, b, c):
    got = floats.fma64(*(np.array([v]) for v in (a, b, c)))
    if all(map(math.isfinite, (a, b, c))):
        total = Fraction(a) * Fraction(b) + Fraction(c)
        try:
            want = float(total) if total else a * b + c
        except OverflowError:
            want = math.inf if total > 0 else -math.inf
        assert same(got, np.array([want]))
    elif math.isfinite(a) and math.isfinite(b):
        assert same(got, np.array([c]))
    else:
        assert same(got, np.array([a * b + c]))


def test_fma_of_float64_is_rounded_once():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 300))
    c = -(a * b) * (1 + rng.integers(-4, 5, 300) * 2.0**-52)
    want = [float(Fraction(x) * Fraction(y) + Fraction(z)) for x, y, z in zip(a, b, c)]
    assert np.array_equal(floats.fma64(a, b, c), want)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", EXACT)
def test_special_values_are_those_of_ieee_arithmetic(name, kind):
    count = 3 if name == "fma" else 2
    x = [formats.encode(np.array(v), kind) for v in zip(*itertools.product(SPECIAL, repeat=count))]
    with np.errstate(all="ignore"):
        wide = [formats.decode(v, kind).astype(np.float64) for v in x]
        want = formats.round_to(EXACT[name](*wide), kind)
        got = floats.ROUNDED[name](kind, "rn")(*x)
    assert same(formats.decode(got, kind), want)
    nan = np.isnan(want)
    bits = got.view(formats.BITS[got.itemsize])[nan]
    assert (bits == formats.FORMATS[kind].nan).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("largest", [False, True])
def test_min_and_max(kind, largest):
    """A NaN gives way to a number, or not with `.NaN`; -0 is less than +0."""
    pairs = list(itertools.product(SPECIAL, repeat=2))
    a, b = (formats.encode(np.array(v), kind) for v in zip(*pairs))
    x, y = (formats.decode(v, kind).astype(np.float64) for v in (a, b))
    key = lambda v: (v, math.copysign(1, v))
    choose = max if largest else min
    for nan in (False, True):
        got = formats.decode(floats.extreme(kind, largest, nan)(a, b), kind)
        for value, left, right in zip(got, x, y):
            numbers = [v for v in (left, right) if not math.isnan(v)]
            lost = not numbers or (nan and len(numbers) < 2)
            want = math.nan if lost else choose(numbers, key=key)
            assert same(value, np.float64(want)), (left, right)


def test_min_with_the_exclusive_or_of_signs():
    a = np.array([3.0, -3.0, -3.0, np.nan], np.float32)
    b = np.array([-2.0, 2.0, -4.0, -5.0], np.float32)
    got = floats.extreme("f32", False, xorsign=True)(a, b)
    assert same(got[:3], np.array([-2.0, -2.0, 3.0])) and abs(got[3]) == 5


def test_max_of_three():
    x = [np.array(v, np.float32) for v in ([1, 5], [3, np.nan], [2, 7])]
    assert floats.extreme("f32", True)(*x).tolist() == [3, 7]


@pytest.mark.parametrize("kind", [*KINDS, "f64"])
def test_signs(kind):
    x = np.array(SPECIAL)
    a = formats.encode(x, kind) if kind != "f64" else x
    read = lambda v: formats.decode(v, kind).astype(np.float64)
    assert same(read(floats.negate(kind)(a)), -read(a))
    assert same(read(floats.absolute(kind)(a)), np.abs(read(a)))
    other = a[::-1].copy()
    assert same(read(floats.copysign(kind)(a, other)), np.copysign(read(other), read(a)))


def test_saturation_flushing_and_relu():
    x = np.array([-1, -0.0, 0.5, 2, np.nan, np.inf], np.float32)
    assert same(floats.saturate(x), np.array([0, 0, 0.5, 1, 0, 1], np.float32))
    made = floats.relu(x, "f32")
    assert same(made, np.array([0, 0, 0.5, 2, np.nan, np.inf], np.float32))
    tiny = np.array([2.0**-127], np.float32)
    added = floats.flushing(floats.add("f32"), "f32")
    assert added(tiny, tiny).tolist() == [0.0]
    assert added(np.float32([2.0**-126]), np.float32([-(2.0**-126) * 1.5])).tolist() == [0.0]
    half = np.array([0x0001, 0x8001, 0x0400], np.uint16).view(np.float16)
    assert same(floats.flush_half(half, "f16"), np.array([0.0, -0.0, 2.0**-14]))


@pytest.mark.parametrize("name", ["bf16x2", "f16x2"])
def test_pairs_are_rounded_in_each_half(name):
    part = name.removesuffix("x2")
    x = [formats.pack(numbers(part, 200, s), numbers(part, 200, s + 9)) for s in range(3)]
    made = floats.pairwise(floats.fma(part), name)(*x)
    for half in range(2):
        operands = [formats.halves(v, name)[half] for v in x]
        got = formats.decode(formats.halves(made, name)[half], part)
        assert np.array_equal(got, exact(EXACT["fma"], part, "rn", *operands))


def test_tests_of_numbers():
    x = np.array([1, np.inf, np.nan, 2.0**-130, 0], np.float32)
    want = {
        "finite": [1, 0, 0, 1, 1],
        "infinite": [0, 1, 0, 0, 0],
        "number": [1, 1, 0, 1, 1],
        "notanumber": [0, 0, 1, 0, 0],
        "normal": [1, 0, 0, 0, 1],
        "subnormal": [0, 0, 0, 1, 0],
    }
    assert {n: list(map(int, t(x))) for n, t in floats.TESTS.items()} == want


@pytest.mark.parametrize("name", comparisons.FLOATS)
def test_comparisons_with_nan(name):
    pairs = [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0), (math.nan, 2.0), (0.0, -0.0), (1.0, math.nan)]
    a, b = (np.array(v, np.float32) for v in zip(*pairs))
    plain = name.removesuffix("u") if name != "neu" else "ne"
    for got, (x, y) in zip(comparisons.FLOATS[name](a, b), pairs):
        lost = math.isnan(x) or math.isnan(y)
        ordered = {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}
        if name in ("num", "nan"):
            assert got == (lost == (name == "nan"))
        else:
            assert got == (name.endswith("u") if lost else ordered[plain])


@pytest.mark.parametrize("name", ["div", "rcp", "sqrt"])
def test_quotients_and_roots_are_rounded_once(name):
    a, b = (np.abs(numbers("f32", 300, seed)) for seed in (0, 1))
    b = np.where(b == 0, np.float32(1), b)
    got = floats.ROUNDED[name]("f32", "rn")(*((a, b) if name == "div" else (b,)))
    for value, x, y in zip(got.tolist(), a.tolist(), b.tolist()):
        if name == "sqrt":  # the square of the result is nearer to y than those of its neighbours
            low, high = (np.nextafter(np.float32(value), np.float32(v)) for v in (0, math.inf))
            half = [(Fraction(float(v)) + Fraction(value)) / 2 for v in (low, high)]
            assert half[0] ** 2 <= Fraction(y) <= half[1] ** 2
        else:
            exact = Fraction(x if name == "div" else 1) / Fraction(y)
            assert value == rounded(exact, "f32", "rn")


@pytest.mark.parametrize(
    "name, kind",
    [*itertools.product(("div", "rcp", "sqrt"), ("f32", "f64")), *((n, "f64") for n in EXACT)],
)
def test_directed_rounding_that_is_not_modelled_is_refused(name, kind):
    with pytest.raises(ValueError, match=f"{name}.rz.{kind} is not modelled"):
        floats.ROUNDED[name](kind, "rz")
