"""Parameters that a loss does not depend on have the gradient None, as in torch.

With zeros instead, weight decay and momentum would change them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain, combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn

BACKENDS = ("torch", "interpret", "reference")
WIDTH = 4
Outputs = Mapping[str, Tensor]


class TwoLoops(nn.Module):
    """Two states: the second reads the first, which does not read the second."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.r = nn.Linear(WIDTH, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        h, k = g.state("h", (WIDTH,)), g.state("k", (WIDTH,))
        h.next = torch.tanh(self.r(torch.cat([x, h])))
        k.next = torch.tanh(self.b(x) + k + h)
        g.output("h", h.next)
        g.output("k", k.next)

    def eager(self, x: Tensor) -> Outputs:
        h = k = x.new_zeros(len(x), WIDTH)
        hs, ks = [], []
        for t in range(x.shape[1]):
            h, k = (
                torch.tanh(self.r(torch.cat([x[:, t], h], -1))),
                torch.tanh(self.b(x[:, t]) + k + h),
            )
            hs.append(h)
            ks.append(k)
        return {"h": torch.stack(hs, 1), "k": torch.stack(ks, 1)}


class OneLoop(nn.Module):
    """Two results of one loop, each with its own weights and initial value."""

    def __init__(self) -> None:
        super().__init__()
        self.rec, self.a, self.b = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.scale, self.start = (nn.Parameter(torch.randn(WIDTH)) for _ in range(2))

    def step(self, x: Any, z: Any) -> tuple[Any, Any, Any]:
        a, b = torch.tanh(self.a(z)), torch.tanh(self.b(z)) * self.scale
        return torch.tanh(self.rec(z) + x), a, b + (a.detach() if self.training else 0)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        z = g.state("z", (WIDTH,), init=self.start)
        z.next, a, b = self.step(x, z)
        g.output("z", z.next)
        g.output("a", a)
        g.output("b", b)

    def eager(self, x: Tensor) -> Outputs:
        z, made = self.start.expand(len(x), WIDTH), []
        for t in range(x.shape[1]):
            z, a, b = self.step(x[:, t], z)
            made.append((z, a, b))
        return dict(zip("zab", (torch.stack(v, 1) for v in zip(*made, strict=True)), strict=True))


class Heads(nn.Module):
    """Linear maps of one value over whole axes, and parallel activations."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH, bias=k > 0) for k in range(3))
        self.p, self.q = (nn.Parameter(torch.randn(WIDTH // 2)) for _ in range(2))

    def eager(self, x: Any) -> Any:
        left, right = x[..., : WIDTH // 2], x[..., WIDTH // 2 :]
        return {
            "a": torch.tanh(self.a(x)),
            "b": torch.tanh(self.b(x)),
            "c": torch.sigmoid(self.c(x)),
            "left": torch.tanh(left * self.p),
            "right": torch.tanh(right * self.q),
        }

    def graph(self, g: gn.Graph) -> None:
        for name, value in self.eager(g.input("x", (WIDTH,), over="time")).items():
            g.output(name, value)


class Reads(nn.Module):
    """Two weighted sums by the same weights: neither depends on the values of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.w = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        past = gn.rename(x, time="past")
        score = torch.tanh(self.q(x) + self.k(past)).sum(-1)
        weights = gn.softmax(score, over="past")
        g.output("v", gn.sum(weights * self.v(past), over="past"))
        g.output("w", gn.sum(weights * self.w(past), over="past"))

    def eager(self, x: Tensor) -> Outputs:
        score = torch.tanh(self.q(x)[:, :, None] + self.k(x)[:, None]).sum(-1)
        weights = score.softmax(-1)
        return {"v": weights @ self.v(x), "w": weights @ self.w(x)}


NETS: tuple[Callable[[], Any], ...] = (TwoLoops, OneLoop, Heads, Reads)


def gradients(outputs: Outputs, names: tuple[str, ...], moving: list[Tensor]) -> Any:
    loss = sum(outputs[name].square().sum() for name in names)
    return torch.autograd.grad(loss, moving, allow_unused=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("make", NETS)
def test_gradients_are_none_as_in_torch(
    make: Callable[[], Any], backend: str, training: bool
) -> None:
    torch.manual_seed(0)
    net = make().double().train(training)
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64, requires_grad=True)
    model, moving = gn.compile(net, backend=backend), [x, *net.parameters()]
    outputs = model(x=x)
    names = list(outputs)
    some = chain.from_iterable(combinations(names, n) for n in (1, len(names)))
    for which in some:
        wanted, got = gradients(net.eager(x), which, moving), gradients(model(x=x), which, moving)
        assert [g is None for g in got] == [g is None for g in wanted], which
        pairs = [(a, b) for a, b in zip(got, wanted, strict=True) if a is not None]
        torch.testing.assert_close(*zip(*pairs, strict=True), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loss_on_a_final_state_alone(backend: str) -> None:
    """A loss on the state of one loop does not change the weights of the other."""
    net = TwoLoops().double()
    x = torch.randn(2, 3, WIDTH, dtype=torch.float64)
    _, state = gn.compile(net, backend=backend)(x=x, return_state=True)
    state["h"].sum().backward()
    assert {k for k, p in net.named_parameters() if p.grad is None} == {"b.weight", "b.bias"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_weight_decay_leaves_unused_weights_alone(backend: str) -> None:
    net = TwoLoops()
    before = net.b.weight.detach().clone()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    gn.compile(net, backend=backend)(x=torch.randn(2, 3, WIDTH))["h"].sum().backward()
    optimizer.step()
    assert torch.equal(net.b.weight, before)
