"""Rows in kernels, each with operands of its own, and how accurate their float32 results are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.frontend.dispatch import HOMES
from graphnn.ops.registry import OPS

BATCH, TIME, WIDTH = 8, 8, 64
# units in the last place that a result may be off in any case
UNITS = 4
# rows whose torch functions have handlers, because they have further arguments
ARITHMETIC = ("add", "sub", "mul", "div", "pow", "remainder")
# where functions are compared in float32, if not on all numbers of a size of 1e-20 to 1e4
WIDE: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("log", "log2", "log10", "sqrt", "rsqrt"), (0.0, math.inf)),
    "log1p": (-1.0, math.inf),
    "acosh": (1.0, math.inf),
    "atanh": (-1.0, 1.0),
}


def torch_function(name: str) -> Any:
    """Returns the torch function of a row."""
    torch_name = (*OPS[name].torch_names, name)[0]
    return next(getattr(h, torch_name) for h in HOMES if hasattr(h, torch_name))


def keys(name: str) -> list[str]:
    """Returns the names of a row's operands as inputs of `Rows`."""
    return [f"{name}_{k}" for k in range(OPS[name].arity)]


def operands(name: str) -> list[Tensor]:
    """Returns operands in float32: of usual sizes, of all sizes, and near ends of the domain."""
    draw = torch.Generator().manual_seed(0)
    low, high = WIDE.get(name, (-math.inf, math.inf))

    def one() -> Tensor:
        count = BATCH * TIME * WIDTH // 4
        size = 10 ** (torch.rand(2 * count, generator=draw, dtype=torch.float64) * 24 - 20)
        signs = torch.randint(0, 2, (2 * count,), generator=draw) * 2 - 1
        usual = torch.rand(2 * count, generator=draw, dtype=torch.float64) * 24 - 12
        x = torch.cat([usual, signs * size])
        if math.isfinite(low) and math.isfinite(high):
            share = torch.rand(4 * count, generator=draw, dtype=torch.float64)
            x = torch.cat(
                [
                    high - (high - low) * share[: 2 * count],
                    torch.fmod(signs * size, torch.tensor(high)),
                ]
            )
        elif math.isfinite(low):
            x = low + x.abs()
        if name == "pow":
            x = x.clamp(-12, 12)
        x = x[torch.randperm(len(x), generator=draw)].float()
        inside = (x > low) & (x < high)
        return torch.where(inside, x, 0.5 + max(low, 0.0)).view(BATCH, TIME, WIDTH)

    found = [one() for _ in range(OPS[name].arity)]
    if name == "pow":
        found[0] = found[0].abs() + 0.01
    return found


class Rows(nn.Module):
    """Each row of some names, in a loop, on operands of its own plus a state that stays zero.

    `function(name, *operands)` computes a row. What one row computes, no other row depends on.
    """

    def __init__(self, names: list[str], function: Callable[..., Tensor], width: int = WIDTH):
        super().__init__()
        self.names, self.function, self.width = names, function, width
        self.unit = nn.Parameter(torch.ones(()))

    def graph(self, g: gn.Graph) -> None:
        zero, total = g.state("zero", shape=(self.width,)), 0.0
        for name in self.names:
            first, *rest = (g.input(key, (self.width,), over="time") for key in keys(name))
            result = self.function(name, first + zero, *rest).to(first.dtype)
            g.output(name, result)
            total = total + result
        # passes move rows out of the loop that its state does not depend on
        zero.next = torch.where(total > 0, zero, -zero)


def faults(got: Tensor, eager: Tensor, exact: Tensor, units: float = UNITS) -> Tensor:
    """Returns where `got` is off by more than some units and more than twice the error of `eager`.

    `units` are units in the last place. Both are compared with `exact`, computed in float64.
    Results that overflow float32 may be infinite. Errors below its least normal number pass.
    """
    limits = torch.finfo(torch.float32)
    wanted = exact.float()

    def error(x: Tensor) -> Tensor:
        same = (x == wanted) | (x.isnan() & wanted.isnan())
        off = (x.double() - exact).abs()
        return torch.where(same, 0.0, torch.where(off.isnan(), math.inf, off))

    allowed = torch.maximum(units * limits.eps * exact.abs(), 2 * error(eager)) + limits.tiny
    allowed = torch.where(exact.isfinite(), allowed, 0.0)
    return error(got) > allowed


def report(
    name: str,
    operands: list[Tensor],
    got: Tensor,
    eager: Tensor,
    exact: Tensor,
    units: float = UNITS,
) -> str:
    """Returns the worst fault of a row in kernels as text; "" if it has none."""
    wrong = faults(got, eager, exact, units)
    if not wrong.any():
        return ""
    unit = torch.finfo(torch.float32).eps * exact.abs()
    off, usual = (((v.double() - exact).abs() / unit).flatten() for v in (got, eager))
    k = int(torch.where(wrong.flatten(), off.nan_to_num(math.inf), -1.0).argmax())
    at = ", ".join(f"{x.flatten()[k]:.9g}" for x in operands)
    return (
        f"the row '{name}' is inaccurate in kernels, in {int(wrong.sum())} of {wrong.numel()} "
        f"places: {name}({at}) = {got.flatten()[k]:.9g} in float32, {exact.flatten()[k]:.9g} in "
        f"float64: off by {off[k]:.3g} units in the last place, torch by {usual[k]:.3g}. "
        "Write a more accurate `triton` text, or a function in graphnn.kernels.codegen.prelude"
    )
