"""How tensor cores add up products: exactly, or cut as measured on GPUs.

The PTX ISA leaves order and rounding of sums open (9.1, sections 9.7.14.5.14 and 9.7.15.5.2:
"accumulation order, rounding, and handling of subnormal inputs are unspecified"). Two models:

- `EXACT`: products are exact, summed in float64 with the accumulator, and rounded once to nearest;
- an `Adder`, as measured on GPUs: products and accumulator are aligned to the largest exponent and
  cut there, summed, and cut again to float32. Sums lose up to a few units of the last place, always
  toward zero. P. Xie, Y. Wang, F. Yang, M. Yang, MMA-Sim: Bit-Accurate Reference Model of Tensor
  Cores and Matrix Cores, arXiv:2511.10909; M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh,
  Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021.

Products of float64 are summed by numpy, in float64, in both; products of integers are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .formats import F64, FORMATS, round_to


@dataclass(frozen=True)
class Adder:
    """A truncating adder: `fraction` bits are kept behind the largest exponent.

    One pass sums the products of `width` bytes of each operand; the passes follow one another.
    """

    fraction: int
    width: int


EXACT: Adder | None = None
# MMA-Sim, table of architectures, for operands of 16 and 32 bits
ADDERS: dict[str, Adder] = {
    "sm_75": Adder(24, 16),
    "sm_80": Adder(24, 16),
    "sm_86": Adder(24, 16),
    "sm_89": Adder(24, 16),
    "sm_90": Adder(25, 32),
    "sm_120": Adder(25, 32),
}


def accumulate(a: F64, b: F64, c: F64, kind: str, result: str, adder: Adder | None) -> F64:
    """Return c + a b for stacks of matrices, as numbers of the format `result` in float64.

    `kind` is the format of a and b. With NaN or infinities the result is that of IEEE arithmetic.
    """
    if adder is None or kind == "f64":
        return round_to(np.matmul(a, b) + c, result)
    size = FORMATS[kind].bits // 8
    step = adder.width // size
    total = c
    for begin in range(0, a.shape[-1], step):
        part = slice(begin, begin + step)
        total = _pass(a[..., part], b[..., part, :], total, kind, result, adder.fraction)
    return total


def _pass(a: F64, b: F64, c: F64, kind: str, result: str, fraction: int) -> F64:
    """One pass of a truncating adder."""
    terms = a[..., :, :, None] * b[..., None, :, :]  # rows, products, columns
    exponents = _exponent(a, kind)[..., :, :, None] + _exponent(b, kind)[..., None, :, :]
    low = FORMATS["f32"].low
    exponents = np.where(terms == 0, low, exponents)
    last = np.where(c == 0, low, _exponent(c, "f32"))
    top = np.maximum(exponents.max(-2), last) - fraction
    cut = np.ldexp(np.trunc(np.ldexp(terms, -top[..., None, :])), top[..., None, :])
    total = cut.sum(-2) + np.ldexp(np.trunc(np.ldexp(c, -top)), top)
    finite = np.isfinite(terms).all(-2) & np.isfinite(c)
    total = np.where(finite, total, terms.sum(-2) + c)
    return round_to(total, result, "rz" if result == "f32" else "rn")


def _exponent(x: F64, kind: str) -> np.ndarray:
    """The exponent that a number is stored with; subnormals have that of the smallest normal."""
    _, exponent = np.frexp(x)
    return np.maximum(exponent - 1, FORMATS[kind].low)
