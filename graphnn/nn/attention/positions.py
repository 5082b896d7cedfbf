"""Where a value stands in its sequence: sinusoidal, learned, rotary and relative encodings."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.errors import ShapeError
from graphnn.frontend.functions import index
from graphnn.ir.source_location import user_site
from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import alone, no_sizes
from graphnn.nn.types import Value


def _even(width: int, what: str) -> None:
    if width % 2 or width < 2:
        raise ShapeError(
            f"{what} turn pairs of numbers",
            site=user_site(),
            got=f"width {width}",
            wanted="an even width of 2 or more",
            fix=f"use width {width + width % 2 or 2}",
        )


@functools.lru_cache(maxsize=64)
def _frequencies(width: int, base: float, dtype: torch.dtype) -> torch.Tensor:
    """base^(-2i/width) for each pair of numbers: (width/2,)."""
    powers = -torch.arange(0, width, 2, dtype=torch.float64) / width
    return (base**powers).to(dtype)


def _waves(x: Value, axis: str, width: int, base: float) -> tuple[Value, Value]:
    """sin and cos of t f_i, (width/2,) each; angles in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    angle = index(axis, x.graph) * _frequencies(width, base, wide)
    return torch.sin(angle).type_as(x), torch.cos(angle).type_as(x)


class SinusoidalPositions(nn.Module):
    """x(t) + p(t), p alternately sin(t f_i) and cos(t f_i) with f_i = base^(-2i/width).

    Compiled alone it takes `x` (batch, time, width), as the other two encodings of positions do.
    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. Any length.
    """

    def __init__(self, width: int, base: float = 10_000.0):
        super().__init__()
        _even(width, "sinusoidal positions")
        self.width, self.base = width, base

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, output `y`."""
        alone(self, g, ("x", self.width, "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(width,) over an axis -> (width,) over it; `over` names it where x has several."""
        waves = _waves(x, sequence_axis(x, over), self.width, self.base)
        return x + torch.stack(waves, -1).reshape(-1)

    def extra_repr(self) -> str:
        return f"{self.width}"


class LearnedPositions(nn.Module):
    """x(t) + p(t), a learned vector for each of `length` positions; later ones are an error.

    Starts as N(0, 0.02²), as in Radford et al. 2018.
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, width) * 0.02)

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, output `y`."""
        alone(self, g, ("x", self.weight.shape[1], "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(width,) over an axis -> (width,) over it; `over` names it where x has several."""
        return x + F.embedding(index(sequence_axis(x, over), x.graph), self.weight)

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)


class RotaryPositions(nn.Module):
    """Neighbouring pairs of numbers turned by t f_i: of two so turned, the dot product depends on
    their distance alone.

    Su et al. 2021 (arXiv:2104.09864), eq. 34. `width` is that of a head. For the queries and keys
    of `MultiHeadAttention(…, positions=…)`.
    """

    def __init__(self, width: int, base: float = 10_000.0):
        super().__init__()
        _even(width, "rotary positions")
        self.width, self.base = width, base

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, output `y`."""
        alone(self, g, ("x", self.width, "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(…, width) over an axis -> the same, turned; a shape of (n·width,) is n heads."""
        sin, cos = _waves(x, sequence_axis(x, over), self.width, self.base)
        first, second = x.reshape(-1, self.width // 2, 2).unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1)
        return turned.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.width}"


class RelativePositions(nn.Module):
    """A learned number for each head and each distance from the query to the key.

    Distances beyond `distance` count as that (Shaw et al. 2018, arXiv:1803.02155, eq. 3); added to
    the score as in Raffel et al. 2020 (arXiv:1910.10683, section 2.1). Starts at zero.
    """

    def __init__(self, heads: int, distance: int = 64):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * distance + 1, heads))

    def graph(self, g: Any) -> None:
        """Raises GraphError: it takes the names of two axes, so it has no graph of its own."""
        no_sizes(self, ("query", "'time'", "'time_key'"))

    def forward(self, query: Value, over: str, key_axis: str) -> Value:
        """(heads,) over both axes: `over` of the query and `key_axis` of the keys."""
        most = len(self.weight) // 2
        apart = index(key_axis, query.graph) - index(over, query.graph)
        return F.embedding(torch.clamp(apart, -most, most) + most, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, distance={len(self.weight) // 2}"
