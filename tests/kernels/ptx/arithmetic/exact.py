"""Exact arithmetic that the tests compare with: fractions and Python integers, one entry a time."""

from __future__ import annotations

import math
import struct
from fractions import Fraction

import numpy as np

# precision, lowest exponent of normal numbers, largest finite number
FORMATS = {
    "bf16": (8, -126, float.fromhex("0x1.fep127")),
    "f16": (11, -14, 65504.0),
    "tf32": (11, -126, float.fromhex("0x1.ffcp127")),
    "f32": (24, -126, float.fromhex("0x1.fffffep127")),
    "e4m3": (4, -6, 448.0),
    "e5m2": (3, -14, 57344.0),
}


def rounded(x: Fraction, name: str, mode: str, negative_zero: bool = False) -> float:
    """Return a fraction, rounded once to a format by the definition of each mode."""
    precision, low, largest = FORMATS[name]
    if x == 0:
        return -0.0 if negative_zero else 0.0
    exponent = math.floor(math.log2(abs(x))) if abs(x) < 2**1000 else 1000
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    last = Fraction(2) ** (max(exponent, low) - precision + 1)
    below = x / last // 1 * last  # toward minus infinity
    above = below if below == x else below + last
    toward_zero, away = (below, above) if x > 0 else (above, below)
    if mode in ("rn", "rna"):
        if x - below != above - x:
            made = below if x - below < above - x else above
        elif mode == "rna":
            made = away
        else:
            made = below if (below / last) % 2 == 0 else above
    else:
        made = {"rz": toward_zero, "rm": below, "rp": above}[mode]
    if abs(made) > Fraction(largest):
        infinite = mode in ("rn", "rna") or (mode == "rm" and x < 0) or (mode == "rp" and x > 0)
        return math.copysign(math.inf if infinite else largest, x)
    return math.copysign(float(made), x)


def bits_to_float(bits: int, size: int) -> float:
    """Return the number of the bits of a binary16, binary32 or binary64."""
    unsigned, floating = {2: ("<H", "<e"), 4: ("<I", "<f"), 8: ("<Q", "<d")}[size]
    return float(struct.unpack(floating, struct.pack(unsigned, bits))[0])


def same(got: np.ndarray, want: np.ndarray) -> bool:
    """Return whether numbers are equal, the signs of zeros too; NaN equals NaN."""
    got, want = np.asarray(got), np.asarray(want)
    equal = (got == want) & (np.signbit(got) == np.signbit(want))
    return bool((equal | (np.isnan(got) & np.isnan(want))).all())
