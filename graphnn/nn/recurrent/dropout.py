"""Noise for recurrent networks: dropout with one mask per sequence, and zoneout."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import nn

from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import no_sizes
from graphnn.nn.types import Value


def locked_dropout(v: Value, p: float, training: bool, over: str) -> Value:
    """Dropout of `v` with one mask for all positions along `over` (Gal & Ghahramani 2016).

    The mask varies over all axes of `v` except `over`, so it is the same at each step. The shape of
    `v` stays.

        class Dropped(nn.Module):
            def graph(self, g):
                x = g.input("x", 3, "time")
                g.output("y", gn.nn.locked_dropout(x, 0.5, self.training, over="time"))

        y = gn.compile(Dropped())(x=torch.ones(2, 5, 3))  # (2, 5, 3)
    """
    if p == 0 or not v.graph.context.drops(training):
        return v
    mask = v.graph.random("dropout", tuple(v.shape), v.node.axes - {over}, p)
    return v * mask


def zoneout(before: Value, after: Value, p: float, training: bool) -> Value:
    """Zoneout: each unit of a state keeps its former value with probability `p` at each step.

    Krueger et al. 2017 (arXiv:1606.01305). It is written with dropout, which the authors note is
    equivalent: h(t-1) + (1 - p) dropout(h(t) - h(t-1)). In evaluation this is the expectation
    p h(t-1) + (1 - p) h(t).

        class Zoned(nn.Module):
            def graph(self, g):
                x, h = g.input("x", 3, "time"), g.state("h", 3)
                h.next = gn.nn.zoneout(h, torch.tanh(x + h), 0.1, self.training)
                g.output("y", h.next)

        y = gn.compile(Zoned())(x=torch.ones(2, 5, 3))  # (2, 5, 3)
    """
    if p == 0:
        return after
    return before + (1 - p) * F.dropout(after - before, p, training)


class LockedDropout(nn.Module):
    """Dropout with one mask per sequence, called on a value of any shape.

    Applied to inputs and outputs of a recurrent layer this is the variational dropout of Gal &
    Ghahramani 2016 (arXiv:1512.05287). For the recurrent connection use `recurrent_dropout`.

        class Dropped(nn.Module):
            def __init__(self):
                super().__init__()
                self.drop = gn.nn.LockedDropout(0.3)

            def graph(self, g):
                g.output("y", self.drop(g.input("x", 3, "time")))

        y = gn.compile(Dropped())(x=torch.ones(2, 5, 3))  # (2, 5, 3)
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
