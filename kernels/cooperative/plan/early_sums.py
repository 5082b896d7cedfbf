"""Reduction splitting: sums that depend on other sums, computed from sums of values known earlier.

A norm computes a mean, and then a sum of values that depend on the mean. If the first sum enters as
a factor, the sums of the other factors are computed along with it, and multiplied afterwards:
sum(s * a + b) is s * sum(a) + sum(b). One barrier serves both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...ir.program import Op

# the attribute `linear_in` of x * x and of x - y
SQUARE = ((1, (0, 0)),)
DIFFERENCE = ((1, (0,)), (-1, (1,)))


@dataclass(frozen=True)
class SumTerm:
    """`sign` times the product of `factors`, scalars of a row, times the sum of `base`."""

    sign: int
    factors: tuple[str, ...]
    base: str


def last(op: Op) -> int:
    """The length of a value's last dimension."""
    return op.shape[-1] if op.shape else 1


def sum_depth(ops: Mapping[str, Op], sharded: Mapping[str, int]) -> dict[str, int]:
    """For how many sums of sharded values (`sharded`), one after another, each value waits."""
    found: dict[str, int] = {}
    for op in ops.values():
        over = op.kind in ("sum", "max") and sharded.get(op.args[0], 0) and not sharded.get(op.name)
        found[op.name] = max((found.get(a, 0) for a in op.args), default=0) + bool(over)
    return found


def terms(
    ops: Mapping[str, Op], name: str, waiting: Mapping[str, int], most: int
) -> list[SumTerm] | None:
    """The sum of a value as terms whose bases wait for fewer sums than `most`.

    None if it is no linear combination of such terms.
    """
    op = ops[name]
    if waiting[name] < most:
        return [SumTerm(1, (), name)]
    products = op.attrs.get("linear_in")
    if not products:
        return None
    found: list[SumTerm] = []
    for sign, places in products:
        args = [op.args[k] for k in places]
        same = [uniform(ops, op, a) for a in args]
        varying = [a for a, u in zip(args, same) if u is None]
        inner = terms(ops, varying[0], waiting, most) if len(varying) == 1 else None
        if inner is None:
            return None
        factors = tuple(u for u in same if u is not None)
        found += [SumTerm(sign * t.sign, factors + t.factors, t.base) for t in inner]
    return found


def uniform(ops: Mapping[str, Op], op: Op, arg: str) -> str | None:
    """The scalar that an operand equals along the result's last dimension, or None."""
    value = ops[arg]
    if value.kind == "const" or (last(value) == 1 and last(op) > 1):
        return arg
    if value.kind == "view" and len(value.args) == 1:
        (places,) = value.attrs["maps"]
        if len(places) and np.all(places == places[0]) and ops[value.args[0]].shape in ((), (1,)):
            return value.args[0]
    return None


def deviation(ops: Mapping[str, Op], name: str) -> tuple[str, str] | None:
    """x and m of a value (x - m) * (x - m) with the same m along x, or None."""
    square = ops[name]
    if square.attrs.get("linear_in") != SQUARE:
        return None
    less = ops[square.args[0]]
    if less.attrs.get("linear_in") != DIFFERENCE:
        return None
    x, m = less.args
    if ops[x].shape == less.shape and (same := uniform(ops, less, m)) is not None:
        return x, same
    return None
