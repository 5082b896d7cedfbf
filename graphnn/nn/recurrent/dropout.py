"""Noise for recurrent networks: dropout with one mask a sequence, and zoneout."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import no_sizes
from graphnn.nn.types import Value


def locked_dropout(v: Value, p: float, training: bool, over: str) -> Value:
    """Dropout of `v` by one mask for all positions along `over` (Gal & Ghahramani 2016).

    The mask has every axis of `v` but `over`: that alone makes it the same at each step.
    """
    if p == 0 or not v.graph.context.drops(training):
        return v
    mask = v.graph.random("dropout", tuple(v.shape), v.node.axes - {over}, p)
    return v * mask


def zoneout(before: Value, after: Value, p: float, training: bool) -> Value:
    """Each unit of a state keeps its former value with probability `p` at each step.

    Krueger et al. 2017 (arXiv:1606.01305). Written with dropout, which the authors note is
    the same: h(t-1) + (1 - p) dropout(h(t) - h(t-1)). In evaluation that is the expectation
    p h(t-1) + (1 - p) h(t).
    """
    if p == 0:
        return after
    return before + (1 - p) * F.dropout(after - before, p, training)


class LockedDropout(nn.Module):
    """Dropout with one mask for the whole sequence, called on a value: (…) -> (…).

    On the inputs and outputs of a recurrent layer this is the variational dropout of Gal &
    Ghahramani 2016 (arXiv:1512.05287); between its steps it is the option `recurrent_dropout`.
    """

    def __init__(self, p: float = 0.5):
        super().__init__()
        self.p = p

    def graph(self, g: Any) -> None:
        """Raises GraphError: the module works on any width, so it has no graph of its own."""
        no_sizes(self)

    def forward(self, x: Value, over: str | None = None) -> Value:
        """Returns `x` with one dropout mask for all positions of its axis (`over`)."""
        return locked_dropout(x, self.p, self.training, sequence_axis(x, over))

    def extra_repr(self) -> str:
        return f"p={self.p}"
