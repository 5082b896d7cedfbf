"""Floating-point arithmetic of PTX: one rounding per operation, NaN rules, `.ftz`, `.sat`, `.relu`.

Every function takes and returns arrays in the dtypes of `formats.DTYPES`; bf16 travels as bits.
Sources are sections of the PTX ISA 9.1: 9.7.3 for f32 and f64, 9.7.4 for f16 and bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

from .formats import DTYPES, F64, FORMATS, Array, canonical, decode, encode, flush, halves, pack

Function = Callable[..., Array]


def odd_sum(x: F64, y: F64) -> F64:
    """Add float64 numbers and round to odd, so that one later rounding gives the right result.

    S. Boldo and G. Melquiond, Emulation of a FMA and correctly rounded sums: proved algorithms
    using rounding to odd, IEEE Transactions on Computers 57(4), 2008. The error of the sum is
    exact (TwoSum, Knuth, The Art of Computer Programming 2, 4.2.2).
    """
    total = x + y
    part = total - x
    error = (x - (total - part)) + (y - part)
    fix = (error != 0) & np.isfinite(error)
    if not fix.any():
        return total
    even = (np.ascontiguousarray(total).view(np.uint64) & np.uint64(1)) == 0
    toward = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where(fix & even, toward, total)


def fma64(a: F64, b: F64, c: F64) -> F64:
    """Multiply and add in float64, rounded once.

    Algorithm 5 of Boldo and Melquiond where nothing can overflow or become subnormal, and exact
    fractions for the other entries.
    """
    high, low = _product(a, b)
    inner, rest = _two_sum(c, low)
    outer, more = _two_sum(high, inner)
    made = outer + odd_sum(rest, more)
    size = np.maximum(np.abs(a * b), np.abs(c))
    safe = (np.abs(a) < 2.0**500) & (np.abs(b) < 2.0**500) & (size < 2.0**900)
    safe &= (np.abs(a * b) > 2.0**-800) | (a == 0) | (b == 0)
    if not safe.all():
        made, hard = made.copy(), np.flatnonzero(~safe)
        for i in hard:
            made.flat[i] = _exact_fma(float(a.flat[i]), float(b.flat[i]), float(c.flat[i]))
    # zero keeps the sign that IEEE 754 gives it
    return np.where(made == 0, a * b + c, made)


# the lower bits of a float64 that a float32 does not have, and the highest of them
_LOWER, _HALF, _QUARTER = np.uint64(2**29 - 1), np.uint64(2**28), np.uint64(2**28 - 1)


def fma32(a: Array, b: Array, c: Array) -> Array:
    """Multiply and add in float32, rounded once.

    The product is exact in float64. Rounding the sum twice is wrong only if the first rounding
    ends halfway between two float32 numbers; those entries are rounded to odd instead.
    """
    total = np.multiply(a, b, dtype=np.float64)
    total += c
    bits = total.view(np.uint64)
    rest = bits & _QUARTER
    made = total.astype(np.float32)
    if np.count_nonzero(rest) == rest.size:
        return made
    halfway = (bits & _LOWER) == _HALF
    halfway |= (rest == 0) & (np.abs(total) < 2.0**-126) & (total != 0)
    if halfway.any():
        x, y, z = (np.broadcast_to(v, made.shape)[halfway].astype(np.float64) for v in (a, b, c))
        made[halfway] = odd_sum(x * y, z).astype(np.float32)
    return canonical(made)


def _product(a: F64, b: F64) -> tuple[F64, F64]:
    """The product and its error (T. J. Dekker, Numerische Mathematik 18, 1971)."""
    total = a * b
    ah, al = _split(a)
    bh, bl = _split(b)
    return total, ((ah * bh - total) + ah * bl + al * bh) + al * bl


def _split(x: F64) -> tuple[F64, F64]:
    scaled = x * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - x)
    return high, x - high


def _two_sum(x: F64, y: F64) -> tuple[F64, F64]:
    total = x + y
    part = total - x
    return total, (x - (total - part)) + (y - part)


def _exact_fma(a: float, b: float, c: float) -> float:
    if not all(map(np.isfinite, (a, b, c))):
        # a product that overflows is finite: only its sign counts beside an infinite c
        return c if np.isfinite(a) and np.isfinite(b) and not np.isnan(c) else a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        return float(exact)  # rounded to nearest, ties to even
    except OverflowError:
        return float("inf") if exact > 0 else float("-inf")


def _wide(x: Array, kind: str) -> F64:
    return decode(x, kind).astype(np.float64)


def _directed(name: str, kind: str, mode: str) -> None:
    """Raise ValueError for a rounding mode that is not modelled."""
    if mode != "rn":
        raise ValueError(f"{name}.{mode}.{kind} is not modelled")


def add(kind: str, mode: str = "rn") -> Function:
    """Return addition in a format, rounded once."""
    if mode == "rn" and kind != "bf16":
        return lambda a, b: canonical(a + b)
    if kind == "f64":
        _directed("add", kind, mode)
    return lambda a, b: encode(odd_sum(_wide(a, kind), _wide(b, kind)), kind, mode)


def sub(kind: str, mode: str = "rn") -> Function:
    """Return subtraction in a format, rounded once."""
    if mode == "rn" and kind != "bf16":
        return lambda a, b: canonical(a - b)
    if kind == "f64":
        _directed("sub", kind, mode)
    return lambda a, b: encode(odd_sum(_wide(a, kind), -_wide(b, kind)), kind, mode)


def mul(kind: str, mode: str = "rn") -> Function:
    """Return multiplication in a format, rounded once; products fit float64."""
    if mode == "rn" and kind != "bf16":
        return lambda a, b: canonical(a * b)
    if kind == "f64":
        _directed("mul", kind, mode)
    return lambda a, b: encode(_wide(a, kind) * _wide(b, kind), kind, mode)


def fma(kind: str, mode: str = "rn") -> Function:
    """Return a * b + c in a format, rounded once."""
    if kind == "f64":
        _directed("fma", kind, mode)
        return fma64
    if kind == "f32" and mode == "rn":
        return fma32

    def fused(a: Array, b: Array, c: Array) -> Array:
        total = odd_sum(_wide(a, kind) * _wide(b, kind), _wide(c, kind))
        return encode(total, kind, mode)

    return fused


def div(kind: str, mode: str = "rn") -> Function:
    """Return division in f32 or f64, rounded to nearest."""
    _directed("div", kind, mode)
    return lambda a, b: canonical(a / b)


def rcp(kind: str, mode: str = "rn") -> Function:
    """Return the reciprocal in f32 or f64, rounded to nearest."""
    _directed("rcp", kind, mode)
    return lambda a: canonical(a.dtype.type(1) / a)


def sqrt(kind: str, mode: str = "rn") -> Function:
    """Return the square root in f32 or f64, rounded to nearest."""
    _directed("sqrt", kind, mode)
    return lambda a: canonical(np.sqrt(a))


# what is rounded: opcode to the function that makes it for a format and a rounding mode
ROUNDED: dict[str, Callable[[str, str], Function]] = {
    "add": add,
    "sub": sub,
    "mul": mul,
    "fma": fma,
    "mad": fma,
    "div": div,
    "rcp": rcp,
    "sqrt": sqrt,
}


def _sign_bit(kind: str) -> np.unsignedinteger:
    bits = {"bf16": np.uint16, "f16": np.uint16, "f32": np.uint32, "f64": np.uint64}[kind]
    return bits(1 << (FORMATS[kind].bits - 1))


def _bits(x: Array, kind: str) -> Array:
    return np.ascontiguousarray(x).view(type(_sign_bit(kind)))


def negate(kind: str) -> Function:
    """Return negation: the sign bit is inverted."""
    sign = _sign_bit(kind)
    return lambda a: (_bits(a, kind) ^ sign).view(DTYPES[kind])


def absolute(kind: str) -> Function:
    """Return the magnitude: the sign bit is cleared."""
    sign = _sign_bit(kind)
    return lambda a: (_bits(a, kind) & ~sign).view(DTYPES[kind])


def copysign(kind: str) -> Function:
    """Return b with the sign of a (9.7.3.2)."""
    sign = _sign_bit(kind)

    def copied(a: Array, b: Array) -> Array:
        return ((_bits(b, kind) & ~sign) | (_bits(a, kind) & sign)).view(DTYPES[kind])

    return copied


def extreme(kind: str, largest: bool, nan: bool = False, xorsign: bool = False) -> Function:
    """Return `min` or `max` of two or three numbers (9.7.3.11, 9.7.4.7).

    A NaN beside a number gives the number, or NaN with `.NaN`; +0 is larger than -0. With
    `.xorsign.abs` magnitudes are compared, and the sign is the exclusive or of both signs.
    """
    sign = _sign_bit(kind)
    if xorsign:
        return _xorsign(kind, extreme(kind, largest, nan))

    def two(a: Array, b: Array) -> Array:
        x, y = decode(a, kind), decode(b, kind)
        xn, yn = np.isnan(x), np.isnan(y)
        first = np.where(x == y, np.signbit(y) if largest else np.signbit(x), (x < y) ^ largest)
        made = np.where((first & ~xn) | yn, _bits(a, kind), _bits(b, kind))
        lost = (xn | yn) if nan else (xn & yn)
        canon = type(sign)(FORMATS[kind].nan)
        return np.where(lost, canon, made).view(DTYPES[kind])

    return lambda a, *more: two(a, more[0]) if len(more) == 1 else two(two(a, more[0]), more[1])


def _xorsign(kind: str, compare: Function) -> Function:
    sign, plain = _sign_bit(kind), absolute(kind)

    def signed(a: Array, b: Array) -> Array:
        made = compare(plain(a), plain(b))
        both = (_bits(a, kind) ^ _bits(b, kind)) & sign
        kept = np.isnan(decode(made, kind))
        return np.where(kept, _bits(made, kind), _bits(made, kind) | both).view(DTYPES[kind])

    return signed


# `testp` (9.7.3.1); a subnormal is not normal, and zero is normal
TESTS: dict[str, Callable[[Array], Array]] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & ((np.abs(x) >= np.finfo(x.dtype).tiny) | (x == 0)),
    "subnormal": lambda x: (np.abs(x) < np.finfo(x.dtype).tiny) & (x != 0),
}


def saturate(x: Array) -> Array:
    """Clamp to 0 and 1, as `.sat` does; NaN becomes +0."""
    kind = x.dtype.type
    return np.where(x > 0, np.minimum(x, kind(1)), kind(0))


def relu(x: Array, kind: str) -> Array:
    """Replace negative numbers by +0, as `.relu` does; NaN becomes canonical."""
    value = decode(x, kind)
    kept = np.where(value > 0, _bits(x, kind), type(_sign_bit(kind))(0))
    canon = type(_sign_bit(kind))(FORMATS[kind].nan)
    return np.where(np.isnan(value), canon, kept).view(DTYPES[kind])


def flush_half(x: Array, kind: str) -> Array:
    """Replace subnormals of f16 or bf16 by zeros of the same sign."""
    tiny = np.abs(decode(x, kind)) < np.float32(2.0 ** FORMATS[kind].low)
    return np.where(tiny, _bits(x, kind) & _sign_bit(kind), _bits(x, kind)).view(DTYPES[kind])


def flushing(function: Function, kind: str) -> Function:
    """Return a function whose operands and result have their subnormals flushed (`.ftz`)."""

    def one(x: Array) -> Array:
        return flush(x) if kind == "f32" else flush_half(x, kind)

    return lambda *operands: one(function(*map(one, operands)))


def pairwise(function: Function, name: str) -> Function:
    """Return a function of packed pairs that treats both halves alike."""

    def both(*operands: Array) -> Array:
        low, high = zip(*(halves(x, name) for x in operands))
        return pack(function(*low), function(*high))

    return both
