"""Approximate instructions, each with the largest error that the PTX ISA documents.

A GPU computes these in hardware tables; only bounds are documented. `Errors` says what is drawn
within them: nothing ("exact": the correctly rounded result), a number drawn from the seed and the
operands ("random"), or a result at the bound ("worst", and "high" and "low" for one sign). Equal
operands give equal results, in every thread, as on a GPU.

    errors = Errors("random", seed=3)
    approximate("ex2", "f32")(errors, np.float32([0.5]))     # within 2 ulps of 1.4142135
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .floats import flush_half
from .formats import DTYPES, F64, Array, decode, encode, flush, round_to

MODES = ("exact", "random", "worst", "high", "low")


@dataclass
class Errors:
    """How approximate instructions err: `mode` is one of `MODES`, `seed` chooses the errors."""

    mode: str = "exact"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is none of {', '.join(MODES)}")

    def draw(self, *operands: Array) -> F64:
        """Return a number from -1 to 1 per entry: the share of the bound by which it errs."""
        if self.mode in ("high", "low"):
            return np.full(operands[0].shape, 1.0 if self.mode == "high" else -1.0)
        mixed = np.full(operands[0].shape, np.uint64(self.seed & (2**64 - 1)))
        for x in operands:
            mixed = _mix(mixed ^ np.ascontiguousarray(x.astype(np.float64)).view(np.uint64))
        share = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1
        return np.where(share < 0, -1.0, 1.0) if self.mode == "worst" else share


def _mix(x: Array) -> Array:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


# from operands, the exact result and its format: what the error is measured from, and the largest
Bound = Callable[[tuple[Array, ...], F64, str], tuple[F64, F64]]


def ulps(count: int) -> Bound:
    """Bound the distance from the correctly rounded result, in units of the last place."""

    def bound(operands: tuple[Array, ...], exact: F64, kind: str) -> tuple[F64, F64]:
        nearest = exact.astype(DTYPES[kind])
        return nearest.astype(np.float64), count * np.spacing(np.abs(nearest)).astype(np.float64)

    return bound


def relative(size: float) -> Bound:
    """Bound the error relative to the exact result."""
    return lambda operands, exact, kind: (exact, size * np.abs(exact))


def absolute(size: float) -> Bound:
    """Bound the absolute error."""
    return lambda operands, exact, kind: (exact, np.full(exact.shape, size))


def _logarithm(operands: tuple[Array, ...], exact: F64, kind: str) -> tuple[F64, F64]:
    near = (operands[0] > 0.5) & (operands[0] < 2)
    return exact, np.where(near, 2.0**-22, 2.0**-22 * np.abs(exact))


def _circle(operands: tuple[Array, ...], exact: F64, kind: str) -> tuple[F64, F64]:
    turn = np.abs(operands[0]) / (2 * np.pi)
    # beyond 100 pi nothing is guaranteed
    return exact, np.where(turn <= 1, 2.0**-20.5, np.where(turn <= 50, 2.0**-14.7, 1.0))


def _quick_quotient(a: F64, b: F64) -> F64:
    """`div.approx`: beyond 2^126 the divisor's reciprocal is flushed to zero."""
    far = (np.abs(b) > 2.0**126) & np.isfinite(b)
    return np.where(far, a * np.copysign(0.0, b), a / b)


@dataclass(frozen=True)
class Approximation:
    """An approximate instruction: its exact function, its largest error, where that is written."""

    function: Callable[..., F64]
    bound: Bound
    source: str


_HALF_EX2, _HALF_TANH = "PTX ISA 9.1, 9.7.4.10", "PTX ISA 9.1, 9.7.4.9"
# by opcode and type
APPROXIMATIONS: dict[tuple[str, str], Approximation] = {
    ("ex2", "f32"): Approximation(np.exp2, ulps(2), "PTX ISA 9.1, 9.7.3.21"),
    ("ex2", "f16"): Approximation(np.exp2, relative(2.0**-9.9), _HALF_EX2),
    ("ex2", "bf16"): Approximation(np.exp2, relative(2.0**-7), _HALF_EX2),
    ("lg2", "f32"): Approximation(np.log2, _logarithm, "PTX ISA 9.1, 9.7.3.20"),
    ("rcp", "f32"): Approximation(np.reciprocal, ulps(1), "PTX ISA 9.1, 9.7.3.13"),
    ("sqrt", "f32"): Approximation(np.sqrt, relative(2.0**-23), "PTX ISA 9.1, 9.7.3.15"),
    ("rsqrt", "f32"): Approximation(
        lambda x: 1 / np.sqrt(x), relative(2.0**-22.9), "PTX ISA 9.1, 9.7.3.16"
    ),
    ("sin", "f32"): Approximation(np.sin, _circle, "PTX ISA 9.1, 9.7.3.18"),
    ("cos", "f32"): Approximation(np.cos, _circle, "PTX ISA 9.1, 9.7.3.19"),
    ("tanh", "f32"): Approximation(np.tanh, relative(2.0**-11), "PTX ISA 9.1, 9.7.3.22"),
    ("tanh", "f16"): Approximation(np.tanh, absolute(2.0**-10.987), _HALF_TANH),
    ("tanh", "bf16"): Approximation(np.tanh, absolute(2.0**-8), _HALF_TANH),
    ("div.full", "f32"): Approximation(np.divide, ulps(2), "PTX ISA 9.1, 9.7.3.8"),
    ("div", "f32"): Approximation(_quick_quotient, ulps(2), "PTX ISA 9.1, 9.7.3.8"),
}


def approximate(opcode: str, kind: str, ftz: bool = False) -> Callable[..., Array]:
    """Return an approximate instruction as a function of `Errors` and its operands.

    The result is within the documented bound of the exact one. Operands for which the ISA lists a
    result (zeros, infinities, NaN) give that result. Raises KeyError for an unknown instruction.
    """
    spec = APPROXIMATIONS[opcode, kind]

    def one(x: Array) -> Array:
        return x if not ftz else flush(x) if kind == "f32" else flush_half(x, kind)

    def computed(errors: Errors, *operands: Array) -> Array:
        wide = tuple(decode(one(x), kind).astype(np.float64) for x in operands)
        exact = np.asarray(spec.function(*wide), np.float64)
        nearest = encode(exact, kind)
        if errors.mode == "exact":
            return one(nearest)
        made = _within(errors.draw(*wide), *spec.bound(wide, exact, kind), kind)
        listed = _listed(opcode, decode(nearest, kind), exact, wide)
        return one(np.where(listed, nearest, encode(made, kind)))

    return computed


def _listed(opcode: str, nearest: Array, exact: F64, operands: tuple[F64, ...]) -> Array:
    """Where the ISA lists the result: zeros, infinities and NaN, as operands or results."""
    found = ~np.isfinite(nearest)
    found |= (nearest == 0) & (exact != 0) if opcode == "lg2" else nearest == 0
    for x in operands:
        found |= ~np.isfinite(x) | (x == 0)
    return found


def _within(share: F64, centre: F64, bound: F64, kind: str) -> F64:
    """Move numbers by a share of the bound and round them to numbers within the bound."""
    moved = centre + share * bound
    made = _nearest(moved, kind)
    out = np.abs(made - centre) > bound
    if out.any():  # rounded toward the centre instead, which is nearest if all else leaves it
        inward = np.where(moved > centre, round_to(moved, kind, "rm"), round_to(moved, kind, "rp"))
        made = np.where(out, inward, made)
        made = np.where(np.abs(made - centre) > bound, _nearest(centre, kind), made)
    return made


def _nearest(x: F64, kind: str) -> F64:
    return decode(encode(x, kind), kind).astype(np.float64)
