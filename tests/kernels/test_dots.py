"""Products by a resident weight: the numbers are those of torch."""

from __future__ import annotations

import torch
from torch import nn

import graphnn as gn


class Cuts(nn.Module):
    """One weight that multiplies two values of 40 numbers, whose tiles end at 20 and at 24."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.r, self.s = nn.Linear(40, 40), nn.Linear(20, 24), nn.Linear(20, 16)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (40,), over="time")
        p, q, r, s = (g.state(k, (n,)) for k, n in zip("pqrs", (20, 20, 24, 16)))
        pq, rs = torch.sigmoid(torch.cat([p, q], -1)), torch.sigmoid(torch.cat([r, s], -1))
        y = torch.tanh(x + self.w(pq) + self.w(rs))
        p.next, q.next = y[..., :20], y[..., 20:]
        r.next, s.next = torch.tanh(self.r(p)), torch.tanh(self.s(q))
        g.output("y", y)


def test_tiles_of_one_weight_that_begin_together_and_end_apart() -> None:
    torch.manual_seed(0)
    net, x = Cuts().double(), torch.randn(3, 4, 40, dtype=torch.float64)
    found = [gn.compile(net, backend=b, skip=("fit",))(x) for b in ("interpret", "torch")]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
