"""`cvt` against torch, exact fractions and Python integers."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn.kernels.ptx.arithmetic import formats
from graphnn.kernels.ptx.arithmetic.conversions import convert, convert_pair, parse
from tests.kernels.ptx.arithmetic.exact import FORMATS, rounded, same

# overflow and NaN are results
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
ODD = np.array([0.0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e10, -1e10, 3.7, np.inf, -np.inf])
INTEGERS = {f"{sign}{size}": (sign, size) for sign in "us" for size in (8, 16, 32, 64)}


def cvt(name, *operands):
    """Run the conversion of that name, such as `rn.bf16.f32`."""
    spec = parse(tuple(name.split(".")))
    made = convert_pair(spec) if spec.target.endswith("x2") else convert(spec)
    return made(*operands)


def all_float32(step=65521):
    """Every `step`-th float32, in bits."""
    return np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_float32_to_16_bits_as_torch(name):
    x = all_float32()
    kind = {"bf16": torch.bfloat16, "f16": torch.float16}[name]
    want = torch.from_numpy(x.copy()).to(kind).view(torch.int16).numpy().view(np.uint16)
    got = cvt(f"rn.{name}.f32", x).view(np.uint16)
    assert np.array_equal(got[~np.isnan(x)], want[~np.isnan(x)])
    assert (got[np.isnan(x)] == 0x7FFF).all()


@pytest.mark.parametrize("mode", ["rn", "rz", "rna"])
@pytest.mark.parametrize("name", ["bf16", "f16", "tf32"])
def test_float32_to_fewer_bits_as_fractions(name, mode):
    x = all_float32(9_999_991)
    x = x[np.isfinite(x)]
    got = formats.decode(cvt(f"{mode}.{name}.f32", x), name)
    want = [rounded(Fraction(float(v)), name, mode, np.signbit(v)) for v in x]
    assert same(got, np.array(want))


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=100)
def test_float64_to_float32(mode, x):
    got = cvt(f"{mode}.f32.f64", np.array([x]))
    zero = x == 0 and math.copysign(1, x) < 0
    assert got.dtype == np.float32 and same(got, [rounded(Fraction(x), "f32", mode, zero)])


def test_tf32_ties_go_away_from_zero():
    x = np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-11], np.float32)
    assert cvt("rna.tf32.f32", x).view(np.float32).tolist() == [
        1 + 2.0**-10,
        1 + 2.0**-9,
        -1 - 2.0**-10,
    ]
    assert cvt("rn.tf32.f32", x).view(np.float32).tolist() == [1.0, 1 + 2.0**-9, -1.0]


@pytest.mark.parametrize("whole", ["rni", "rzi", "rmi", "rpi"])
@pytest.mark.parametrize("source", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("target", INTEGERS)
def test_floats_to_integers(target, source, whole):
    """Rounded, clamped to the range of the target; NaN is 0 or has the highest bit alone."""
    sign, size = INTEGERS[target]
    low, high = (-(2 ** (size - 1)), 2 ** (size - 1) - 1) if sign == "s" else (0, 2**size - 1)
    values = np.concatenate([ODD, [low * 1.0, high * 1.0, high * 2.0, low * 2.0 - 1, np.nan]])
    x = formats.encode(values, source) if source != "f64" else values
    wide = formats.decode(x, source).astype(np.float64)
    function = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}[whole]
    for got, value in zip(cvt(f"{whole}.{target}.{source}", x).tolist(), wide.tolist()):
        if math.isnan(value):
            bits = 0 if source != "f64" and size < 64 else 1 << (size - 1)
            assert got % 2**size == bits
        elif math.isinf(value):
            assert got == (high if value > 0 else low)
        else:
            assert got == min(max(function(value), low), high)


@pytest.mark.parametrize("mode", ["rn", "rz", "rm", "rp"])
@pytest.mark.parametrize("target", ["f16", "bf16", "f32"])
@pytest.mark.parametrize("source", INTEGERS)
def test_integers_to_floats(source, target, mode):
    sign, size = INTEGERS[source]
    low, high = (-(2 ** (size - 1)), 2 ** (size - 1) - 1) if sign == "s" else (0, 2**size - 1)
    rng = np.random.default_rng(0)
    shifts = rng.integers(0, size, 80)
    numbers = [int(high) >> int(s) for s in shifts] + [(int(low) >> int(s)) for s in shifts]
    numbers += [2**24 + 1, 2**24 + 3, 2**53 + 1, (2**53 + 2**29) | 1, 65519, 65520, low, high]
    numbers = [n for n in numbers if low <= n <= high]
    got = cvt(f"{mode}.{target}.{source}", np.array(numbers, formats.DTYPES[source]))
    want = [rounded(Fraction(n), target, mode) for n in numbers]
    assert np.array_equal(formats.decode(got, target), np.array(want))


@pytest.mark.parametrize("number", [2**53 + 1, 2**53 + 3, 2**64 - 1])
def test_long_integers_to_float64(number):
    assert cvt("rn.f64.u64", np.array([number], np.uint64)).tolist() == [float(number)]


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(sorted(INTEGERS)))
def test_integers_are_cut_or_clamped(number, target):
    sign, size = INTEGERS[target]
    x = np.array([number], np.int64)
    low, high = (-(2 ** (size - 1)), 2 ** (size - 1) - 1) if sign == "s" else (0, 2**size - 1)
    assert cvt(f"{target}.s64", x).tolist()[0] % 2**size == number % 2**size
    assert cvt(f"sat.{target}.s64", x).tolist() == [min(max(number, low), high)]


def test_the_first_of_two_is_the_upper_half():
    a, b = np.array([1.0, np.nan], np.float32), np.array([-2.0, 3.0], np.float32)
    assert cvt("rn.bf16x2.f32", a, b).tolist() == [0x3F80C000, 0x7FFF4040]
    assert cvt("rn.f16x2.f32", a, b).tolist() == [0x3C00C000, 0x7FFF4200]
    assert cvt("rn.relu.f16x2.f32", a, b).tolist() == [0x3C000000, 0x7FFF4200]


def test_modifiers_of_float_results():
    x = np.array([-1.5, 0.25, 7e4, -7e4, 1e39, np.nan], np.float32)
    sat = cvt("rn.sat.f16.f32", x)
    assert same(sat, np.array([0, 0.25, 1, 0, 1, 0], np.float16))
    finite = cvt("rn.satfinite.f16.f32", x)
    largest = 65504
    assert same(finite, np.array([-1.5, 0.25, largest, -largest, largest, np.nan], np.float16))
    relu = cvt("rn.relu.bf16.f32", x[:2])
    assert formats.decode(relu, "bf16").tolist() == [0.0, 0.25]
    tiny = np.array([2.0**-130, -(2.0**-130)], np.float32)
    assert same(cvt("ftz.f64.f32", tiny), np.array([0.0, -0.0]))
    assert same(cvt("rn.ftz.f32.f64", tiny.astype(np.float64)), np.array([0.0, -0.0]))
    assert same(cvt("rni.f32.f32", np.array([2.5, -0.4], np.float32)), np.array([2.0, -0.0]))


def test_fp8_pairs():
    a, b = np.array([448.0, 1e9], np.float32), np.array([-0.5, np.nan], np.float32)
    made = cvt("rn.satfinite.e4m3x2.f32", a, b)
    assert made.tolist() == [0x7EB0, 0x7E7F]
    back = cvt("rn.f16x2.e4m3x2", made)
    low, high = formats.halves(back, "f16x2")
    assert high.tolist() == [448.0, 448.0] and low[0] == -0.5 and np.isnan(low[1])


@pytest.mark.parametrize("name", ["rs.bf16.f32", "rn.e2m1.f32", "s32.f32"])
def test_what_is_not_modelled_is_refused(name):
    with pytest.raises(ValueError, match=r"not modelled|needs an integer rounding"):
        cvt(name, np.array([1.0], np.float32))


def test_all_formats_of_the_tests_are_those_of_the_library():
    for name, (precision, low, largest) in FORMATS.items():
        form = formats.FORMATS[name]
        assert (form.precision, form.low, form.largest) == (precision, low, largest)
