"""Formats and rounding against torch, struct and exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn.kernels.ptx.arithmetic import formats
from tests.kernels.ptx.arithmetic.exact import FORMATS, rounded, same

# overflow and NaN are results
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")

CODES = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
TORCH = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
MODES = ("rn", "rz", "rm", "rp", "rna")


def boundary_values(name):
    """Values at, halfway between, and next to the numbers of a format, in float64."""
    bits = CODES if name in ("bf16", "f16") else CODES[:256].astype(np.uint8)
    numbers = formats.decode(bits.view(formats.DTYPES[name]), name).astype(np.float64)
    numbers = np.unique(numbers[np.isfinite(numbers)])
    middle = (numbers[1:] + numbers[:-1]) / 2
    top = numbers[-1] + (numbers[-1] - numbers[-2]) * np.array([0.25, 0.5, 0.75, 1, 1e9])
    values = np.concatenate([numbers, middle, top, -top])
    return np.concatenate([values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf)])


@pytest.mark.parametrize("name", TORCH)
def test_all_numbers_are_decoded_as_by_torch(name):
    bits = CODES if name in ("bf16", "f16") else CODES[:256].astype(np.uint8)
    integer = torch.int16 if bits.dtype == np.uint16 else torch.int8
    want = torch.from_numpy(bits.view(f"i{bits.itemsize}").copy()).view(integer).view(TORCH[name])
    got = formats.decode(bits.view(formats.DTYPES[name]), name)
    assert same(got, want.to(torch.float32).numpy())


@pytest.mark.parametrize("name", ["bf16", "f16"])
def test_float32_is_rounded_as_by_torch(name):
    x = boundary_values(name).astype(np.float32)
    got = formats.encode(x.astype(np.float64), name).view(np.uint16)
    want = torch.from_numpy(x).to(TORCH[name]).view(torch.int16).numpy().view(np.uint16)
    # torch has a NaN of its own
    assert np.array_equal(got[~np.isnan(x)], want[~np.isnan(x)])


@pytest.mark.parametrize("name", ["bf16", "f16", "e4m3", "e5m2"])
def test_all_numbers_come_back(name):
    bits = CODES if name in ("bf16", "f16") else CODES[:256].astype(np.uint8)
    x = formats.decode(bits.view(formats.DTYPES[name]), name)
    for mode in MODES:
        again = formats.encode(x.astype(np.float64), name, mode).view(bits.dtype)
        assert np.array_equal(again[~np.isnan(x)], bits[~np.isnan(x)])
        assert (again[np.isnan(x)] == formats.FORMATS[name].nan).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FORMATS)
def test_rounding_at_boundaries_is_that_of_fractions(name, mode):
    values = boundary_values(name if name in TORCH else "bf16")
    if name in ("f32", "tf32"):
        last = 2.0 ** (-23 if name == "f32" else -10)
        values = np.concatenate([values, values[:2000] * (1 + last / 2), values * (1 + last / 3)])
    values = np.random.default_rng(0).choice(values, 600)
    want = [rounded(Fraction(v), name, mode, np.signbit(v)) for v in values]
    assert same(formats.round_to(values, name, mode), np.array(want))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(MODES))
@settings(max_examples=200)
def test_rounding_is_that_of_fractions(x, mode):
    for name in FORMATS:
        want = rounded(Fraction(x), name, mode, x == 0 and np.signbit(x))
        assert same(formats.round_to(np.array([x]), name, mode), np.array([want]))


def test_nan_becomes_the_canonical_one():
    nan = np.array([0x7FC12345, 0xFF800001], np.uint32).view(np.float32)
    assert (formats.canonical(nan).view(np.uint32) == 0x7FFFFFFF).all()
    assert (formats.encode(nan.astype(np.float64), "bf16") == 0x7FFF).all()


def test_fp8_overflows_to_infinity_or_nan():
    x = np.array([1e9, -1e9])
    assert formats.encode(x, "e5m2").tolist() == [0x7C, 0xFC]
    assert formats.encode(x, "e4m3").tolist() == [0x7F, 0xFF]


def test_tf32_is_cut():
    x = np.array([1 + 2.0**-11, -1 - 2.0**-10 - 2.0**-12], np.float32)
    assert formats.truncate_tf32(x).tolist() == [1.0, -1 - 2.0**-10]


def test_flushing_keeps_the_sign():
    x = np.array([2.0**-127, -(2.0**-149), 2.0**-126, -0.0], np.float32)
    assert same(formats.flush(x), np.array([0.0, -0.0, 2.0**-126, -0.0], np.float32))


@pytest.mark.parametrize("name", ["f16x2", "bf16x2", "f32x2"])
def test_pairs_are_split_and_joined(name):
    dtype = formats.DTYPES[name]
    packed = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, 100, dtype)
    low, high = formats.halves(packed, name)
    assert np.array_equal(formats.pack(low, high), packed)
    half = 8 * packed.itemsize // 2
    assert (low.view(formats.BITS[packed.itemsize // 2]) == packed & dtype(2**half - 1)).all()
