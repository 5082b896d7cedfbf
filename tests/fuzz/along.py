"""Functions over a named axis, in two columns: of graphnn's values, and of the tensors they mean.

The second column gets the values at all positions that the example has, and its own position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import graphnn as gn


@dataclass(frozen=True)
class Along:
    """`none`: what an example without positions gives; `keeps`: whether the result has the axis."""

    graph: Callable[[gn.Value, str, int], gn.Value]
    eager: Callable[[Tensor, int, int], Tensor]
    keeps: bool = False
    none: float = 0


def _soft(x: Tensor) -> Tensor:
    """Where nothing may be chosen, zeros."""
    none = (x == float("-inf")).all(0)
    return torch.where(none, 0, torch.where(none, 0, x).softmax(0))


def _rank(x: Tensor) -> Tensor:
    """Each number's place from the largest down, the earlier of equals first."""
    return torch.argsort(torch.argsort(x, 0, descending=True, stable=True), 0, stable=True)


OVER: dict[str, Along] = {
    "sum": Along(lambda v, axis, k: gn.sum(v, axis), lambda x, i, k: x.sum(0)),
    "mean": Along(lambda v, axis, k: gn.mean(v, axis), lambda x, i, k: x.mean(0)),
    "max": Along(lambda v, axis, k: gn.max(v, axis), lambda x, i, k: x.amax(0)),
    "logsumexp": Along(
        lambda v, axis, k: gn.logsumexp(v, axis).clamp(min=-9),
        lambda x, i, k: x.logsumexp(0).clamp(min=-9),
        none=-9,
    ),
    "argmax": Along(lambda v, axis, k: gn.argmax(v, axis), lambda x, i, k: x.argmax(0)),
    "last": Along(lambda v, axis, k: gn.last(v, axis), lambda x, i, k: x[-1]),
    "first": Along(lambda v, axis, k: gn.first(v, axis), lambda x, i, k: x[0]),
    "softmax": Along(lambda v, axis, k: gn.softmax(v, axis), lambda x, i, k: _soft(x)[i], True),
    "masked softmax": Along(
        lambda v, axis, k: gn.softmax(torch.where(v > 0.1713 * (k % 3), v, -torch.inf), axis),
        lambda x, i, k: _soft(torch.where(x > 0.1713 * (k % 3), x, -torch.inf))[i],
        True,
    ),
    "reverse": Along(lambda v, axis, k: gn.reverse(v, axis), lambda x, i, k: x.flip(0)[i], True),
    "roll": Along(
        lambda v, axis, k: gn.roll(v, k - 4, axis), lambda x, i, k: x.roll(k - 4, 0)[i], True
    ),
    "top": Along(
        lambda v, axis, k: gn.top(v, 1 + k % 3, axis),
        lambda x, i, k: _rank(x)[i] < 1 + k % 3,
        True,
    ),
    "attention": Along(
        lambda v, axis, k: gn.sum(gn.softmax(v, axis) * v, axis),
        lambda x, i, k: (_soft(x) * x).sum(0),
    ),
}
# what finite differences can judge
SMOOTH = ("sum", "mean", "logsumexp", "last", "first", "softmax", "reverse", "roll", "attention")
# what takes whole numbers and truth values, too
ANY = ("sum", "max", "argmax", "top", "last", "first", "reverse", "roll")
