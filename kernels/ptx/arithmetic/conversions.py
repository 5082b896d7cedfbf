"""Conversions of PTX (`cvt`): every rounding, saturation, and what becomes of NaN.

Source: PTX ISA 9.1, section 9.7.9.21.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .floats import odd_sum, relu, saturate
from .formats import (
    DTYPES,
    F64,
    FORMATS,
    WHOLE,
    Array,
    decode,
    encode,
    flush,
    halves,
    pack,
)

FLOATING = ("f16", "bf16", "f32", "f64", "tf32", "e4m3", "e5m2")
# integer rounding modes, and the same to whole numbers
_INTEGER_MODES = {"rni": "rn", "rzi": "rz", "rmi": "rm", "rpi": "rp"}
_MODES = ("rn", "rz", "rm", "rp", "rna")


@dataclass(frozen=True)
class Conversion:
    """One `cvt`: its types and modifiers. `whole` is the mode of an integer rounding, if any."""

    target: str
    source: str
    mode: str | None
    whole: str | None
    ftz: bool
    sat: bool
    relu: bool
    satfinite: bool


def parse(modifiers: tuple[str, ...]) -> Conversion:
    """Read the modifiers of a `cvt`, such as ("rn", "bf16", "f32").

    Raises ValueError for a modifier that is not modelled.
    """
    *flags, target, source = modifiers
    known = {*_MODES, *_INTEGER_MODES, "ftz", "sat", "relu", "satfinite"}
    if unknown := set(flags) - known:
        raise ValueError(f"cvt has modifiers that are not modelled: {', '.join(sorted(unknown))}")
    mode = next((m for m in flags if m in _MODES), None)
    whole = next((m for m in flags if m in _INTEGER_MODES), None)
    parts = [target.removesuffix("x2"), source.removesuffix("x2")]
    if wrong := [p for p in parts if p not in DTYPES]:
        raise ValueError(f"cvt has types that are not modelled: {', '.join(wrong)}")
    return Conversion(
        target,
        source,
        mode,
        _INTEGER_MODES[whole] if whole else None,
        "ftz" in flags,
        "sat" in flags,
        "relu" in flags,
        "satfinite" in flags,
    )


def convert(spec: Conversion) -> Callable[[Array], Array]:
    """Return the conversion of one array of numbers."""
    target, source = spec.target, spec.source
    if target in FLOATING:
        return _float_to_float(spec) if source in FLOATING else _integer_to_float(spec)
    return _float_to_integer(spec) if source in FLOATING else _integer_to_integer(spec)


def convert_pair(spec: Conversion) -> Callable[..., Array]:
    """Return a conversion to a packed pair; of two f32, the first is the upper half."""
    part = Conversion(
        spec.target.removesuffix("x2"),
        spec.source.removesuffix("x2"),
        spec.mode,
        spec.whole,
        spec.ftz,
        spec.sat,
        spec.relu,
        spec.satfinite,
    )
    if part == Conversion("bf16", "f32", "rn", None, False, False, False, False):
        return to_bf16_pair
    one = convert(part)
    if spec.source.endswith("x2"):

        def repacked(a: Array) -> Array:
            low, high = halves(a, spec.source)
            return pack(one(low), one(high))

        return repacked
    return lambda a, b: pack(one(b), one(a))


def _float_to_float(spec: Conversion) -> Callable[[Array], Array]:
    target, source, mode = spec.target, spec.source, spec.mode or "rn"
    plain = not (spec.ftz or spec.sat or spec.relu or spec.satfinite or spec.whole)
    if plain and (source, target, mode) == ("f32", "bf16", "rn"):
        return to_bf16
    if plain and (source, target, mode) == ("f32", "tf32", "rna"):
        return to_tf32
    if plain and (source, target) == ("bf16", "f32"):
        return lambda a: decode(a, "bf16")

    def converted(a: Array) -> Array:
        x = decode(a, source)
        if spec.ftz and source == "f32":
            x = flush(x)
        value: F64 = x.astype(np.float64)
        if spec.whole:
            value = np.copysign(WHOLE[spec.whole](value), value)
        if spec.satfinite:
            value = _to_finite(value, target)
        made = encode(value, target, mode)
        if spec.ftz and target == "f32":
            made = flush(made)
        if spec.sat:
            made = saturate(made)
        return relu(made, target) if spec.relu and target != "tf32" else _relu_wide(made, spec)

    return converted


def _relu_wide(made: Array, spec: Conversion) -> Array:
    """`.relu` of TF32, whose bits are those of a float32."""
    if not (spec.relu and spec.target == "tf32"):
        return made
    return relu(made.view(np.float32), "f32").view(np.uint32)


def _to_finite(value: F64, target: str) -> F64:
    """Cut to the largest number of the target, as `.satfinite` does; NaN stays."""
    largest = FORMATS[target].largest
    return np.where(np.isnan(value), value, np.clip(value, -largest, largest))


_BELOW, _ONE, _SIXTEEN, _UPPER = map(np.uint32, (0x7FFF, 1, 16, 0xFFFF0000))
_NAN = np.uint32(0x7FFF0000)


def _rounded(x: Array) -> Array:
    """The bits of float32 with the upper half rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    made = bits + ((bits >> _SIXTEEN) & _ONE)
    made += _BELOW
    bad = x != x
    return np.where(bad, _NAN, made) if np.count_nonzero(bad) else made


def to_bf16(x: Array) -> Array:
    """Round float32 to the bits of bf16, to nearest with ties to even; NaN becomes 0x7fff."""
    return (_rounded(x) >> _SIXTEEN).astype(np.uint16)


def to_bf16_pair(high: Array, low: Array) -> Array:
    """Round two float32 to bf16 as `to_bf16` does, and pack them."""
    return np.asarray((_rounded(high) & _UPPER) | (_rounded(low) >> _SIXTEEN))


def to_tf32(x: Array) -> Array:
    """Round float32 to TF32, to nearest with ties away from zero; NaN becomes 0x7fffffff."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    made = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    special = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    return np.where(special, np.where(np.isnan(x), np.uint32(0x7FFFFFFF), bits), made)


def _integer_to_float(spec: Conversion) -> Callable[[Array], Array]:
    target, mode = spec.target, spec.mode or "rn"
    if target == "f64" and mode != "rn" and spec.source in ("s64", "u64"):
        raise ValueError(f"cvt.{mode}.f64.{spec.source} is not modelled")

    def converted(a: Array) -> Array:
        made = encode(_odd_from_integer(a), target, mode) if target != "f64" else a.astype("f8")
        return saturate(made) if spec.sat else made

    return converted


def _odd_from_integer(a: Array) -> F64:
    """Integers as float64, rounded to odd if they have more than 53 bits."""
    if a.dtype.itemsize < 8:
        return a.astype(np.float64)
    low = a & a.dtype.type(0x7FF)
    return odd_sum((a - low).astype(np.float64), low.astype(np.float64))


def _float_to_integer(spec: Conversion) -> Callable[[Array], Array]:
    if spec.whole is None:
        raise ValueError(f"cvt.{spec.target}.{spec.source} needs an integer rounding")
    kind = DTYPES[spec.target]
    info = np.iinfo(kind)  # type: ignore[type-var]
    whole = WHOLE[spec.whole]
    # "Integer Notes" of the section: zero, or only the highest bit set
    narrow = spec.source != "f64" and info.bits < 64
    nan = kind(0) if narrow else np.array(1 << (info.bits - 1), np.uint64).astype(kind)

    def converted(a: Array) -> Array:
        x = decode(a, spec.source)
        x = flush(x) if spec.ftz and spec.source == "f32" else x
        value = whole(x.astype(np.float64))
        # float(info.max) of 64 bits is one too many
        inside = (value >= float(info.min)) & (value < float(2 ** (info.max.bit_length())))
        made = np.where(inside, value, 0.0).astype(kind)
        made = np.where(inside, made, np.where(value > 0, kind(info.max), kind(info.min)))
        return np.where(np.isnan(value), nan, made)

    return converted


def _integer_to_integer(spec: Conversion) -> Callable[[Array], Array]:
    kind = DTYPES[spec.target]
    if not spec.sat:
        return lambda a: a.astype(kind)
    info = np.iinfo(kind)  # type: ignore[type-var]

    def clamped(a: Array) -> Array:
        own = np.iinfo(a.dtype)
        low = a.dtype.type(max(info.min, own.min))
        high = a.dtype.type(min(info.max, own.max))
        return np.clip(a, low, high).astype(kind)

    return clamped
