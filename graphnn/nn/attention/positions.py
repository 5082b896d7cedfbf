"""Encodings of positions: sinusoidal, learned, rotary and relative."""

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
from graphnn.nn.standalone import no_sizes, standalone_graph
from graphnn.nn.types import Value


def _even(width: int, what: str) -> None:
    if width % 2 or width < 2:
        raise ShapeError(
            f"{what} act on pairs of elements",
            site=user_site(),
            got=f"width {width}",
            wanted="an even width of 2 or more",
            fix=f"use width {width + width % 2 or 2}",
        )


@functools.lru_cache(maxsize=64)
def _frequencies(width: int, base: float, dtype: torch.dtype) -> torch.Tensor:
    """base^(-2i/width) for each pair of elements: (width/2,)."""
    powers = -torch.arange(0, width, 2, dtype=torch.float64) / width
    return (base**powers).to(dtype)


def _waves(x: Value, axis: str, width: int, base: float) -> tuple[Value, Value]:
    """sin and cos of t f_i, (width/2,) each; angles are at least float32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    angle = index(axis, x.graph) * _frequencies(width, base, wide)
    return torch.sin(angle).type_as(x), torch.cos(angle).type_as(x)


class SinusoidalPositions(nn.Module):
    """x(t) + p(t), where p alternates sin(t f_i) and cos(t f_i), f_i = base^(-2i/width).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. Sequences may have any length. Compiled
    alone it takes `x` (batch, time, width).

        y = gn.compile(gn.nn.SinusoidalPositions(8))(x=torch.zeros(2, 5, 8))  # (2, 5, 8)
    """

    def __init__(self, width: int, base: float = 10_000.0):
        super().__init__()
        _even(width, "sinusoidal positions")
        self.width, self.base = width, base

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, output `y`."""
        standalone_graph(self, g, ("x", self.width, "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(width,) over an axis -> (width,) over it. `over` names the axis if x has several."""
        waves = _waves(x, sequence_axis(x, over), self.width, self.base)
        return x + torch.stack(waves, -1).reshape(-1)

    def extra_repr(self) -> str:
        return f"{self.width}"


class LearnedPositions(nn.Module):
    """x(t) + p(t), where p is a learned vector for each of `length` positions.

    Later positions are an error. p starts as N(0, 0.02²), as in Radford et al. 2018. Compiled alone
    it takes `x` (batch, time, width).

        y = gn.compile(gn.nn.LearnedPositions(16, 8))(x=torch.zeros(2, 5, 8))  # (2, 5, 8)
    """

    def __init__(self, length: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(length, width) * 0.02)

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, output `y`."""
        standalone_graph(self, g, ("x", self.weight.shape[1], "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(width,) over an axis -> (width,) over it. `over` names the axis if x has several."""
        return x + F.embedding(index(sequence_axis(x, over), x.graph), self.weight)

    def extra_repr(self) -> str:
        return "{}, {}".format(*self.weight.shape)


class RotaryPositions(nn.Module):
    """Rotates neighbouring pairs of elements by the angles t f_i.

    The dot product of two rotated vectors depends only on the distance of their positions (Su et
    al. 2021, arXiv:2104.09864, eq. 34). `width` is the width of a head. Pass it to
    `MultiHeadAttention(…, positions=…)`, or compile it alone with `x` (batch, time, width).

        gn.nn.MultiHeadAttention(8, heads=2, positions=gn.nn.RotaryPositions(4))
    """

    def __init__(self, width: int, base: float = 10_000.0):
        super().__init__()
        _even(width, "rotary positions")
        self.width, self.base = width, base

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, output `y`."""
        standalone_graph(self, g, ("x", self.width, "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """Rotate (…, width) over an axis; a value of shape (n·width,) has n heads."""
        sin, cos = _waves(x, sequence_axis(x, over), self.width, self.base)
        first, second = x.reshape(-1, self.width // 2, 2).unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1)
        return turned.reshape(x.shape)

    def extra_repr(self) -> str:
        return f"{self.width}"


class RelativePositions(nn.Module):
    """A learned bias of the score for each head and each distance from query to key.

    Distances are clipped to ±`distance` (Shaw et al. 2018, arXiv:1803.02155, eq. 3). The bias is
    added to the score as in Raffel et al. 2020 (arXiv:1910.10683, section 2.1) and starts at zero.

        gn.nn.MultiHeadAttention(8, heads=2, positions=gn.nn.RelativePositions(2))
    """

    def __init__(self, heads: int, distance: int = 64):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2 * distance + 1, heads))

    def graph(self, g: Any) -> None:
        """Raise GraphError: the module needs the names of two axes."""
        no_sizes(self, ("query", "'time'", "'time_key'"))

    def forward(self, query: Value, over: str, key_axis: str) -> Value:
        """The bias (heads,) over both axes: `over` of the query and `key_axis` of the keys."""
        most = len(self.weight) // 2
        distance = index(key_axis, query.graph) - index(over, query.graph)
        return F.embedding(torch.clamp(distance, -most, most) + most, self.weight)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]}, distance={len(self.weight) // 2}"
