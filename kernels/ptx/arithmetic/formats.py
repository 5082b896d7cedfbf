"""Floating-point formats of PTX, and rounding to any of them in every mode of the ISA.

Values travel in numpy arrays, one entry per thread. numpy has no bf16, TF32 or FP8: their values
are kept as bits in unsigned integers. `DTYPES` has the dtype of each PTX type.

    round_to(np.float64([0.1]), "bf16", "rz")     # float64([0.09960938])
    encode(np.float64([0.1]), "bf16", "rn")       # uint16([0x3dcd])
    decode(np.uint16([0x3dcd]), "bf16")           # float32([0.10009766])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
F64 = NDArray[np.float64]

# the numpy dtype that holds each fundamental and alternate type (PTX ISA 9.1, section 5.2)
DTYPES: dict[str, type[np.generic]] = {
    "pred": np.bool_,
    **dict.fromkeys(("b8", "u8", "e4m3", "e5m2"), np.uint8),
    **dict.fromkeys(("b16", "u16", "bf16", "e4m3x2", "e5m2x2"), np.uint16),
    **dict.fromkeys(("b32", "u32", "tf32", "f16x2", "bf16x2"), np.uint32),
    **dict.fromkeys(("b64", "u64", "f32x2"), np.uint64),
    "s8": np.int8,
    "s16": np.int16,
    "s32": np.int32,
    "s64": np.int64,
    "f16": np.float16,
    "f32": np.float32,
    "f64": np.float64,
}
# the unsigned dtype of each size in bytes
BITS: dict[int, type[np.unsignedinteger[Any]]] = {
    1: np.uint8,
    2: np.uint16,
    4: np.uint32,
    8: np.uint64,
}


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    `precision` counts the significant bits, the implicit one included; `low` and `high` are the
    exponents of the smallest normal and of the largest number. `largest` is the largest finite
    number, `nan` the bits of the canonical NaN. Formats without infinities overflow to NaN.
    """

    precision: int
    low: int
    high: int
    bits: int
    nan: int
    largest: float
    infinite: bool = True


def _ieee(precision: int, exponent: int, bits: int, nan: int) -> Format:
    high = 2 ** (exponent - 1) - 1
    largest = float((2 - 2.0 ** (1 - precision)) * 2.0**high)
    return Format(precision, 1 - high, high, bits, nan, largest)


# Canonical NaNs: PTX ISA 9.1, sections 9.7.3 (0x7fffffff) and 9.7.4 (0x7fff). FP8: section 5.2.3
# and OCP 8-bit Floating Point Specification 1.0, table 1; e4m3 has no infinities.
FORMATS: dict[str, Format] = {
    "f64": _ieee(53, 11, 64, 0x7FF8000000000000),
    "f32": _ieee(24, 8, 32, 0x7FFFFFFF),
    "tf32": _ieee(11, 8, 32, 0x7FFFFFFF),
    "bf16": _ieee(8, 8, 16, 0x7FFF),
    "f16": _ieee(11, 5, 16, 0x7FFF),
    "e5m2": _ieee(3, 5, 8, 0x7F),
    "e4m3": Format(4, -6, 8, 8, 0x7F, 448.0, infinite=False),
}


def _away(x: F64) -> F64:
    """Round to the nearest whole number, halves away from zero."""
    whole = np.trunc(x)
    return np.asarray(whole + np.sign(x) * (np.abs(x - whole) >= 0.5))


def _odd(x: F64) -> F64:
    """Round to a whole number; what is not exact becomes odd, so that rounding again is right."""
    whole = np.floor(x)
    return np.asarray(np.where((whole == x) | (np.fmod(whole, 2) != 0), whole, whole + 1))


# rounding modes (PTX ISA 9.1, section 9.7.9.21) as functions to whole numbers
WHOLE: dict[str, Callable[[F64], F64]] = {
    "rn": np.rint,
    "rz": np.trunc,
    "rm": np.floor,
    "rp": np.ceil,
    "rna": _away,
    "odd": _odd,
}
# the modes in which positive and negative numbers beyond the largest become infinite
_OVERFLOWS = {
    "rn": (True, True),
    "rna": (True, True),
    "rz": (False, False),
    "rm": (False, True),
    "rp": (True, False),
    "odd": (False, False),
}


def round_to(x: F64, name: str, mode: str = "rn") -> F64:
    """Round float64 numbers once to a format, subnormals and overflow included, as float64.

    Overflow gives infinity if the mode rounds away from zero there, and otherwise the largest
    number. NaN and infinities pass.
    """
    form = FORMATS[name]
    if name == "f64":
        return x
    if mode == "rn" and name in ("f16", "f32"):  # as numpy rounds
        return np.asarray(x, np.float64).astype(DTYPES[name]).astype(np.float64)
    _, exponent = np.frexp(x)
    # `frexp` has 0.5 <= |fraction| < 1; below the smallest normal the spacing stays the same
    last = np.maximum(exponent - 1, form.low) - (form.precision - 1)
    scaled = np.ldexp(x, -last)
    rounded = np.copysign(np.ldexp(WHOLE[mode](scaled), last), x)
    made = np.where(np.isfinite(x), rounded, x)
    up, down = _OVERFLOWS[mode]
    over = np.isfinite(x) & (np.abs(made) > form.largest)
    grows = np.where(x > 0, up, down)
    limit = np.copysign(np.where(grows, np.inf, form.largest), x)
    return np.asarray(np.where(over, limit, made), np.float64)


def encode(x: F64, name: str, mode: str = "rn") -> Array:
    """Round float64 numbers to a format and return them in its dtype (`DTYPES`)."""
    form = FORMATS[name]
    x = np.asarray(x, np.float64)
    if mode == "rn" and name in ("f16", "f32", "f64"):  # numpy rounds to nearest even
        return canonical(x.astype(DTYPES[name]))
    value = round_to(x, name, mode)
    if name in ("f16", "f32", "f64"):
        return canonical(value.astype(DTYPES[name]))
    if name in ("bf16", "tf32"):
        bits = canonical(value.astype(np.float32)).view(np.uint32)
        return bits if name == "tf32" else (bits >> np.uint32(16)).astype(np.uint16)
    return _encode_small(value, form)


def _encode_small(value: F64, form: Format) -> Array:
    """The bits of rounded numbers in a format of 8 bits."""
    width = form.precision - 1
    magnitude = np.abs(value)
    _, exponent = np.frexp(magnitude)
    stored = np.where(magnitude > 0, np.maximum(exponent - 1, form.low), form.low)
    fraction = np.ldexp(np.where(np.isfinite(value), magnitude, 0.0), width - stored)
    bits = fraction.astype(np.int64) + ((stored - form.low).astype(np.int64) << width)
    top = (1 << (form.bits - 1)) - 1
    infinity = (top >> width) << width if form.infinite else top
    bits = np.where(np.isinf(value), infinity, np.where(np.isnan(value), form.nan, bits))
    sign = np.where(np.signbit(value) & ~np.isnan(value), 1 << (form.bits - 1), 0)
    return np.asarray((bits | sign).astype(np.uint8))


def decode(bits: Array, name: str) -> Array:
    """Return numbers of a format as float32, or as float64 if they are; this is exact."""
    if name == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if name == "tf32":
        return np.ascontiguousarray(bits).view(np.float32)
    if name in ("e4m3", "e5m2"):
        return _SMALL[name][bits]
    return bits if name in ("f32", "f64") else bits.astype(np.float32)


def _small_numbers(form: Format) -> Array:
    """The numbers of all 256 patterns of a format of 8 bits."""
    width, code = form.precision - 1, np.arange(256)
    exponent, fraction = (code & 0x7F) >> width, code & ((1 << width) - 1)
    lead = np.where(exponent > 0, 1 << width, 0) + fraction
    value = lead * 2.0 ** (np.maximum(exponent, 1) - 1 + form.low - width)
    top = 0x7F >> width
    if form.infinite:
        value = np.where(exponent == top, np.where(fraction == 0, np.inf, np.nan), value)
    else:
        value = np.where((code & 0x7F) == 0x7F, np.nan, value)
    return np.asarray(np.where(code & 0x80, -value, value), np.float32)


_SMALL = {name: _small_numbers(FORMATS[name]) for name in ("e4m3", "e5m2")}


def canonical(x: Array) -> Array:
    """Replace each NaN by the canonical one of its dtype (f16, f32); float64 is left as it is."""
    pattern = {2: 0x7FFF, 4: 0x7FFFFFFF}.get(x.dtype.itemsize)
    bad = np.isnan(x)
    if pattern is None or not np.count_nonzero(bad):  # faster than `any` for few entries
        return x
    bits = BITS[x.dtype.itemsize]
    return np.where(bad, bits(pattern), np.ascontiguousarray(x).view(bits)).view(x.dtype)


def truncate_tf32(bits: Array) -> Array:
    """Cut float32 bits to TF32 as tensor cores do: the lower 13 bits are dropped, as float32.

    PTX ISA 9.1, section 9.7.15.5.2: operations on `.tf32` truncate the lower 13 bits of the data.
    """
    return (np.ascontiguousarray(bits).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def flush(x: Array) -> Array:
    """Replace float32 subnormals by zeros of the same sign, as `.ftz` does."""
    tiny = np.abs(x) < np.float32(2.0**-126)
    return np.where(tiny, np.copysign(x.dtype.type(0), x), x)


def halves(packed: Array, name: str) -> tuple[Array, Array]:
    """Split a packed pair (`f16x2`, `bf16x2`, `f32x2`) into its low and its high numbers."""
    wide = packed.dtype.type
    part = BITS[packed.dtype.itemsize // 2]
    shift = wide(4 * packed.dtype.itemsize)
    dtype = DTYPES[name.removesuffix("x2")]
    return packed.astype(part).view(dtype), (packed >> shift).astype(part).view(dtype)


def pack(low: Array, high: Array) -> Array:
    """Join two arrays of numbers of the same size into packed pairs."""
    part, wide = BITS[low.dtype.itemsize], BITS[2 * low.dtype.itemsize]
    shift = wide(8 * low.dtype.itemsize)
    return np.asarray(low.view(part).astype(wide) | (high.view(part).astype(wide) << shift))
