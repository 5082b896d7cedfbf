"""Functions over a named axis, each for values of graphnn and for plain tensors.

The second version gets the values at all positions of an example, and one position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import graphnn as gn


@dataclass(frozen=True)
class Along:
    """`none`: the result for an example without positions; `keeps`: the result has the axis."""

    graph: Callable[[gn.Value, str, int], gn.Value]
    eager: Callable[[Tensor, int, int], Tensor]
    keeps: bool = False
    none: float = 0


def _soft(x: Tensor) -> Tensor:
    """A softmax that is zero if all scores are -inf."""
    none = (x == float("-inf")).all(0)
    return torch.where(none, 0, torch.where(none, 0, x).softmax(0))


def _rank(x: Tensor) -> Tensor:
    """The rank of each element, the largest first; of equal ones, the earlier first."""
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
# functions that finite differences can check
SMOOTH = ("sum", "mean", "logsumexp", "last", "first", "softmax", "reverse", "roll", "attention")
# functions that also accept integers and booleans
ANY = ("sum", "max", "argmax", "top", "last", "first", "reverse", "roll")
