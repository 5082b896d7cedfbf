"""Whether a kernel's results are torch's, up to the rounding that torch itself shows.

The measure is torch's own error: its results in the dtype of the call, against its results in a
wider one. It grows with the number of steps, with sums and with cancellation as a kernel's error
does, so that no bound has to be guessed per network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# How many times torch's own error a kernel may be off. In 32 bits and more, its exponentials and
# divisions are within 2 ulp (PTX ISA, ex2.approx and div.full), torch's within 1, and it adds in
# another order: at most twice as far each. Twice that is for the luck of torch's rounding. With 16
# bits, both compute in float32 and round what they store or multiply, a kernel no more often.
FACTORS = {torch.float64: 8.0, torch.float32: 8.0, torch.bfloat16: 3.0, torch.float16: 3.0}
# Where torch happens to be exact, as for sums of few numbers, a kernel may still round: by this
# many units in the last place of the largest result.
ULPS = {torch.float64: 16.0, torch.float32: 16.0, torch.bfloat16: 2.0, torch.float16: 2.0}
# The relative rounding of a product's operands: TF32 has 10 bits; three products of its parts drop
# only the product of the two low parts (2^-11 each), and round their sums as float32 does.
PRODUCT_UNITS = {"tf32": 2.0**-10, "tf32x3": 2.0**-21}
# both operands of a product are rounded by half a unit; their errors seldom add up
PRODUCT_ULPS = 2.0


@dataclass(frozen=True)
class Expected:
    """The results of torch: in the dtype of the call, and in a wider one.

    `ratio` is the rounding of the kernel relative to that of `eager`, `products` that of operands
    of its products, if they are rounded further. `shaken` are wide results for inputs that are off
    by a rounding: where terms cancel, `eager` may be right by luck alone. `floor` is an error that
    is always allowed, if there is nothing wider to measure by.
    """

    eager: Sequence[Tensor]
    wide: Sequence[Tensor]
    ratio: float = 1.0
    products: float = 0.0
    shaken: Sequence[Tensor] = ()
    floor: float = 0.0


def unit(dtype: torch.dtype, precision: str = "ieee") -> float:
    """Return the relative rounding of a dtype whose products have a precision."""
    eps = torch.finfo(dtype).eps
    return max(eps, PRODUCT_UNITS.get(precision, eps)) if dtype == torch.float32 else eps


def difference(found: Sequence[Tensor], expected: Expected) -> str:
    """Return how results differ from torch's, as text; empty if they are right."""
    if len(found) != len(expected.eager):
        return f"{len(found)} results instead of {len(expected.eager)}"
    shaken = expected.shaken or expected.wide
    each = zip(found, expected.eager, expected.wide, shaken, strict=True)
    texts = (_of_one(f, e, w, s, expected) for f, e, w, s in each)
    return next((f"result {k}: {text}" for k, text in enumerate(texts) if text), "")


def candidates_differ(found: Sequence[Tensor], first: Sequence[Tensor]) -> str:
    """Return how the results of a launch differ from those of another one of the same kernel.

    They add in another order. A loop may amplify that, at most to half of the digits: what is wrong
    is off by more.
    """
    for k, (f, w) in enumerate(zip(found, first, strict=True)):
        if not f.is_floating_point():
            text = (
                "" if torch.equal(f, w) else f"{int((f != w).sum())} of {f.numel()} values differ"
            )
        else:
            error, _ = _error(f, w, w, w, Expected((), ()))
            largest = torch.where(w.isfinite(), w, 0).abs().max() if w.numel() else torch.zeros(())
            allowed = float(largest) * torch.finfo(f.dtype).eps ** 0.5
            text = _pattern(f, w, w) or (_numbers(error, allowed, w) if f.numel() else "")
        if text:
            return f"result {k}: {text}"
    return ""


def proves_nothing(wide: Sequence[Tensor]) -> bool:
    """Return whether results are zero throughout: any kernel that stores nothing has them."""
    return not any(bool(t.count_nonzero()) for t in wide)


def _of_one(found: Tensor, eager: Tensor, wide: Tensor, shaken: Tensor, expected: Expected) -> str:
    if found.shape != wide.shape:
        return f"shape {tuple(found.shape)} instead of {tuple(wide.shape)}"
    if not found.is_floating_point() or not wide.is_floating_point():
        # near ties may be decided either way, where torch itself decides both ways
        wrong = (found != eager) & (eager == wide)
        return f"{int(wrong.sum())} of {wrong.numel()} values differ" if wrong.any() else ""
    error, allowed = _error(found, eager, wide, shaken, expected)
    if not found.numel():
        return ""
    return _pattern(found, eager, wide) or _numbers(error, allowed, wide)


def _pattern(found: Tensor, eager: Tensor, wide: Tensor) -> str:
    """Return how NaN and infinities differ, wherever torch's two computations agree on them."""
    rules = {
        "NaN or infinite where there are numbers": eager.isfinite()
        & wide.isfinite()
        & ~found.isfinite(),
        "numbers where there is NaN": eager.isnan() & wide.isnan() & ~found.isnan(),
        "not the same infinities": eager.isinf() & (eager == wide) & (found != eager),
    }
    for text, wrong in rules.items():
        if wrong.any():
            return f"{int(wrong.sum())} of {wrong.numel()} are {text}"
    return ""


def _error(
    found: Tensor, eager: Tensor, wide: Tensor, shaken: Tensor, expected: Expected
) -> tuple[Tensor, float]:
    """Return the error of each number, and the largest that is allowed."""
    finite = eager.isfinite() & wide.isfinite()
    exact = torch.where(finite, wide.double(), 0)
    own = torch.where(finite, (eager.double() - exact).abs(), 0)
    error = torch.where(finite, (found.double() - exact).abs(), 0)
    moved = torch.where(finite & shaken.isfinite(), shaken.double() - exact, 0)
    scale, largest, luck = (float(t.abs().max()) if t.numel() else 0.0 for t in (exact, own, moved))
    kind = found.dtype
    least = ULPS[kind] * torch.finfo(kind).eps + PRODUCT_ULPS * expected.products
    allowed = FACTORS[kind] * max(largest * expected.ratio, luck) + least * scale
    return error, allowed + expected.floor


def _numbers(error: Tensor, allowed: float, wide: Tensor) -> str:
    worst = int(error.nan_to_num(nan=float("inf")).argmax())
    off = float(error.flatten()[worst])
    if off <= allowed:
        return ""
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), error.shape))
    value = float(wide.flatten()[worst])
    many = int((error > allowed).sum())
    return (
        f"{many} of {error.numel()} are wrong, the worst at {place} by {off:.3g} of {value:.3g}; "
        f"rounding allows {allowed:.2g}"
    )
