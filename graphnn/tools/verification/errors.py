"""The errors of tensors against float64, and how large they may be.

Errors are relative to the largest number of a tensor. A tensor whose numbers are all below 1% of
the largest tensor's is measured against that 1%. What is checked may be off by twice the error of
the baseline, which computes the same in the same dtype, plus one rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

Tensor = torch.Tensor
# One rounding, relative to the largest number, by dtype. A number of p significant bits is rounded
# by 2^-p at most (bf16: 8, fp16: 11). For float32 it is 2^-19, not 2^-24: three products of TF32
# leave out 2^-22 of each product and cut the smaller parts by 2^-21 twice, ex2.approx and div.full
# are off by 2 units in the last place (PTX ISA 9.1, section 9.7.3), and sums have another order.
# One product of TF32 cuts both operands by 2^-10.
ROUNDING = {"bf16": 2.0**-8, "fp16": 2.0**-11, "fp32": 2.0**-19, "tf32": 2.0**-9, "fp64": 2.0**-40}
# numbers below this share of the largest tensor are measured against it
FLOOR = 0.01
# float64 rounds sums of about 2^12 terms by 2^-40: what is smaller is zero by mathematics
ZERO = 2.0**-40
# how often the baseline's error, and the effect of rounded inputs, may be exceeded
FACTOR = 2.0


@dataclass(frozen=True)
class TensorError:
    """The error of one tensor, that of the baseline, and the largest error allowed.

    `noise` says why more than the usual is allowed, `fault` what is wrong.
    """

    name: str
    error: float = 0.0
    baseline: float = 0.0
    allowed: float = 0.0
    noise: str = ""
    fault: str = ""

    @property
    def severity(self) -> tuple[bool, float]:
        """A key by which the worst tensor is the largest."""
        return bool(self.fault), self.error / (self.allowed or 1.0)


def tensor_errors(
    names: Sequence[str],
    got: Sequence[Tensor],
    baseline: Sequence[Tensor],
    exact: Sequence[Tensor],
    dtype: str,
    rounded_inputs: Callable[[], Sequence[Sequence[Tensor]]],
) -> list[TensorError]:
    """Return the error of each tensor `got`.

    `exact` are the results in float64. `rounded_inputs` returns the exact results for inputs that
    differ by one rounding. It is called only if an error is too large: a result that changes by as
    much is ill-conditioned, and its error noise.
    """
    scales = _scales(baseline, exact)
    unit = ROUNDING[dtype]
    given = zip(names, got, baseline, exact, scales)
    found = [_error(name, x, rough, right, s, unit) for name, x, rough, right, s in given]
    if all(not x.fault for x in found):
        return found
    changed = rounded_inputs()
    return [
        _if_ill_conditioned(x, exact[k], [c[k] for c in changed], scales[k])
        for k, x in enumerate(found)
    ]


@dataclass(frozen=True)
class _Scale:
    """What errors of a tensor are relative to, and why if it is not the tensor itself."""

    size: float
    noise: str = ""


def _scales(baseline: Sequence[Tensor], exact: Sequence[Tensor]) -> list[_Scale]:
    sizes = [_largest(x) for x in exact]
    largest = max(sizes, default=0.0) or 1.0
    found = []
    for rough, size in zip(baseline, sizes):
        if size <= ZERO * largest and _largest(rough) > 0:
            # it is the sum of terms that cancel: they, not the sum, are rounded
            found.append(_Scale(largest, "zero by mathematics"))
        else:
            found.append(_Scale(max(size, FLOOR * largest)))
    return found


def _largest(x: Tensor) -> float:
    """Return the largest finite magnitude; 0 for other tensors than floating ones."""
    if not x.is_floating_point() or not x.numel():
        return 0.0
    return float(x.double().abs().nan_to_num(0.0, 0.0, 0.0).max())


def _error(
    name: str, got: Tensor, baseline: Tensor, exact: Tensor, scale: _Scale, unit: float
) -> TensorError:
    if not got.is_floating_point():
        wrong = int((got != baseline).sum())
        return TensorError(name, fault=f"{wrong} of {got.numel()} differ" if wrong else "")
    if wrong := int((got.isnan() & ~baseline.isnan()).sum()):
        return TensorError(name, math.inf, fault=f"{wrong} of {got.numel()} numbers are NaN")
    overflown = exact.isfinite() & ~baseline.isfinite()
    error, base = (
        _distance(torch.where(overflown, exact, x.double()), exact, scale.size)
        for x in (got, baseline)
    )
    allowed = FACTOR * base + unit
    noise = f"{int(overflown.sum())} numbers overflow" if overflown.any() else scale.noise
    fault = "" if error <= allowed else _too_large(error, allowed)
    return TensorError(name, error, base, allowed, noise, fault)


def _distance(x: Tensor, exact: Tensor, size: float) -> float:
    """Return the largest difference, relative to `size`; equal infinities and NaN have none."""
    if not x.numel():
        return 0.0
    x = x.double()
    same = (x == exact) | (x.isnan() & exact.isnan())
    far = torch.where(same, 0.0, (x - exact).abs()).nan_to_num(math.inf, math.inf)
    return float(far.max()) / size


def _if_ill_conditioned(
    found: TensorError, exact: Tensor, changed: Sequence[Tensor], scale: _Scale
) -> TensorError:
    """Return the error without a fault if rounded inputs change the exact result as much."""
    if not found.fault or not math.isfinite(found.error) or not exact.is_floating_point():
        return found
    change = max((_distance(x, exact, scale.size) for x in changed), default=0.0)
    allowed = found.allowed + FACTOR * change
    if found.error > allowed:
        return replace(found, allowed=allowed, fault=_too_large(found.error, allowed))
    noise = f"ill-conditioned: rounded inputs change it by {change:.1e}"
    return replace(found, allowed=allowed, noise=noise, fault="")


def _too_large(error: float, allowed: float) -> str:
    return f"wrong by {error:.1e}, at most {allowed:.1e} is allowed"


def rounded(x: Tensor, unit: float, generator: torch.Generator) -> Tensor:
    """Return floating numbers that are larger or smaller by `unit` of themselves, at random."""
    if not x.is_floating_point():
        return x.clone()
    signs = torch.randint(0, 2, x.shape, generator=generator, dtype=torch.int8) * 2 - 1
    return x.double() * (1 + unit * signs.double())
