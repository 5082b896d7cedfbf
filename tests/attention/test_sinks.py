"""Softmax weights times a value computed from all of them (attention sinks): left to torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.errors import GraphnnError
from graphnn.ir.graph import IR, Node
from graphnn.planner.core.loop_graph import merge_orders

KINDS: dict[str, tuple[Callable[..., gn.Value], Callable[[Tensor, Tensor], Tensor]]] = {
    "sink": (
        lambda z, w: torch.sigmoid(gn.logsumexp(z, "source")),
        lambda z, w: torch.sigmoid(z.logsumexp(-1, keepdim=True)),
    ),
    "largest score": (
        lambda z, w: gn.max(z, "source"),
        lambda z, w: z.amax(-1, keepdim=True),
    ),
    "largest weight": (
        lambda z, w: gn.max(w, "source"),
        lambda z, w: w.amax(-1, keepdim=True),
    ),
    "squares": (
        lambda z, w: gn.sum(w * w, "source"),
        lambda z, w: (w * w).sum(-1, keepdim=True),
    ),
    "entropy": (
        lambda z, w: gn.entropy(w, "source"),
        lambda z, w: -(w * w.log()).sum(-1, keepdim=True),
    ),
    "coverage": (lambda z, w: gn.sum(w, "target"), lambda z, w: w.sum(-2, keepdim=True)),
    "last": (lambda z, w: gn.last(w, "source"), lambda z, w: w[..., -1:]),
    "sum of sums": (
        lambda z, w: gn.sum(w * gn.sum(w * w, "source"), "source"),
        lambda z, w: (w * (w * w).sum(-1, keepdim=True)).sum(-1, keepdim=True),
    ),
}


class Weighted(nn.Module):
    """A sum weighted by a softmax and by a function of it, or with that added."""

    def __init__(self, made: Callable[..., gn.Value], times: bool) -> None:
        super().__init__()
        self.scale, self.made, self.times = nn.Parameter(torch.tensor(0.7)), made, times

    def graph(self, g: gn.Graph) -> None:
        q, k = g.input("q", (3,), over="target"), g.input("k", (3,), over="source")
        z = gn.dot(q, k) * self.scale
        w = gn.softmax(z, "source")
        r = self.made(z, w)
        g.output("y", gn.sum((w * r if self.times else w + r) * k, "source"))


@pytest.mark.parametrize("backend", ["torch", "interpret", "reference"])
@pytest.mark.parametrize("times", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_that_read_their_own_weights(kind, times, backend):
    torch.manual_seed(0)
    made, plain = KINDS[kind]
    net = Weighted(made, times).double()
    q, k = (torch.randn(2, n, 3).double().requires_grad_() for n in (4, 5))
    z = q @ k.mT * net.scale
    w = z.softmax(-1)
    r = plain(z, w)
    want = (w * r if times else w + r) @ k
    given = (q, k, net.scale)
    flows = torch.autograd.grad(want.square().sum(), given)
    got = gn.compile(net, backend=backend)(q=q, k=k)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got.square().sum(), given), flows)


def test_a_node_that_depends_on_itself_is_an_error_not_a_hang():
    form = {"attrs": {}, "shape": (), "axes": frozenset[str](), "dtype": torch.float32}
    nodes = {0: Node(0, "neg", (1,), **form), 1: Node(1, "neg", (0,), **form)}  # type: ignore[arg-type]
    with pytest.raises(GraphnnError, match="of itself"):
        merge_orders(IR(nodes=nodes).nodes, {})
