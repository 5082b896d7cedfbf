"""What a graph read of its modules is compared at every call; where it differs it is drawn anew."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import graphnn as gn
from graphnn import errors
from tests.tracing.eager import BACKENDS


class Net(nn.Module):
    """Reads all kinds of things of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.map, self.act = nn.Linear(3, 3), nn.Tanh()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.alpha, self.scales = 1.0, [1.0, 2.0]
        self.config = SimpleNamespace(beta=0.5, inner={"gamma": 1.0})
        self.plain = torch.ones(3)
        self.register_buffer("tau", torch.tensor(2.0))
        self.register_buffer("steps", torch.tensor(2))
        self.drawn, self.unread = 0, 0

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.map(x)) * self.alpha / self.tau * self.plain * self.scales[1]
        for block in self.blocks:
            y = y + self.config.beta * block(y)
        for _ in range(int(self.steps)):
            y = y * self.config.inner["gamma"] * (1 - 0.1 * self.tau)
        return y

    def graph(self, g: gn.Graph) -> None:
        self.drawn += 1
        g.output("y", self(g.input("x", (3,), over="time")))


def swap(net: Any) -> None:
    net.act = nn.ReLU()


def without_bias(net: Any) -> None:
    net.map = nn.Linear(3, 3, bias=False)


def bias_gone(net: Any) -> None:
    net.map.bias = None


def more_blocks(net: Any) -> None:
    net.blocks.append(nn.Linear(3, 3))


def hooked(net: Any) -> None:
    net.map.register_forward_hook(lambda module, args, out: out * 0.5)


def alpha(net: Any) -> None:
    net.alpha = 0.25


def scales(net: Any) -> None:
    net.scales[1] = 5.0


def config(net: Any) -> None:
    net.config.beta = 0.1


def inner(net: Any) -> None:
    net.config.inner["gamma"] = 0.7


def plain(net: Any) -> None:
    net.plain = torch.arange(3.0)


def plain_in_place(net: Any) -> None:
    net.plain.mul_(3)


def buffer(net: Any) -> None:
    net.tau.fill_(4.0)


def number_of_a_buffer(net: Any) -> None:
    net.steps.add_(1)


def loaded(net: Any) -> None:
    net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()})


def assigned(net: Any) -> None:
    net.load_state_dict({k: v * 2 for k, v in net.state_dict().items()}, assign=True)


def frozen(net: Any) -> None:
    net.map.weight = nn.Parameter(torch.ones(3, 3), requires_grad=False)


def parametrized(net: Any) -> None:
    nn.utils.parametrizations.weight_norm(net.map)
    with torch.no_grad():
        net.map.parametrizations.weight.original0.mul_(2)


def pruned(net: Any) -> None:
    prune.l1_unstructured(net.map, "weight", 0.5)


CHANGES = [
    swap,
    without_bias,
    bias_gone,
    more_blocks,
    hooked,
    alpha,
    scales,
    config,
    inner,
    plain,
    plain_in_place,
    buffer,
    number_of_a_buffer,
    loaded,
    assigned,
    frozen,
    parametrized,
    pruned,
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_the_next_call(change: Any, backend: str) -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 3)
    model = gn.compile(net, backend=backend)
    before = model(x=x)
    torch.testing.assert_close(before, net(x))
    change(net)
    after = model(x=x)
    torch.testing.assert_close(after, net(x))
    assert not torch.allclose(before, after)


def test_what_is_not_read_draws_nothing_anew() -> None:
    net, x = Net(), torch.randn(2, 3, 3)
    model = gn.compile(net)
    for _ in range(3):
        model(x=x).sum().backward()
        net.unread += 1
        net.tau.mul_(0.9)
        with torch.no_grad():
            for p in net.parameters():
                p.sub_(p.grad)
    assert net.drawn == 1


def test_drawings_are_kept_for_when_they_hold_again() -> None:
    net, x = Net(), torch.randn(2, 3, 3)
    model = gn.compile(net)
    for _ in range(3):
        for value in (1.0, 0.5):
            net.alpha = value
            torch.testing.assert_close(model(x=x), net(x))
    assert net.drawn == 2
    for k in range(20):
        net.alpha = float(k)
        model(x=x)
    assert len(model._traces) <= 8 and len(model._programs) <= 8


def test_attributes_of_the_source_are_those_of_the_model() -> None:
    net, x = Net(), torch.randn(2, 3, 3)
    model = gn.compile(net)
    model.alpha = 0.125
    assert net.alpha == model.alpha == 0.125
    torch.testing.assert_close(model(x=x), net(x))
    model.act = nn.ReLU()
    torch.testing.assert_close(model(x=x), net(x))


def test_a_tie_that_is_broken() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, i: Tensor) -> Tensor:
            return self.out(torch.tanh(self.embed(i)))

        def graph(self, g: gn.Graph) -> None:
            g.output("y", self(g.input("i", (), over="time", dtype=torch.int64)))

    net, i = Tied(), torch.randint(9, (2, 3))
    model = gn.compile(net)
    torch.testing.assert_close(model(i=i), net(i))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    state["out.weight"] = torch.randn(9, 4)
    model.load_state_dict(state, assign=True)
    torch.testing.assert_close(model(i=i), net(i))
    model(i=i).sum().backward()
    assert net.out.weight.grad is not None and net.embed.weight.grad is not None


def test_what_graph_writes_itself_is_no_reason_to_draw_anew() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.count, self.cache = 0, None

        def graph(self, g: gn.Graph) -> None:
            self.count += 1
            self.cache = torch.zeros(self.count)
            g.output("y", g.input("x", (3,), over="time") * 2)

    net, x = Counting(), torch.randn(2, 3, 3)
    model = gn.compile(net)
    model(x=x), model(x=x)
    assert net.count == 1


def test_numbers_made_of_buffers() -> None:
    """Numbers computed of buffers and parameters in graph() are part of the graph."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(3, 3)
            self.register_buffer("mask", torch.ones(3, 3))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = self.map.weight.abs().max()
            weight = self.map.weight * self.mask + (1 - self.mask) * 0.5
            return F.linear(x, weight / scale) + torch.tanh(self.map.bias.detach().sign())

        def graph(self, g: gn.Graph) -> None:
            g.output("y", self(g.input("x", (3,), over="time")))

    net, x = Masked(), torch.randn(2, 3, 3)
    model = gn.compile(net)
    for _ in range(2):
        torch.testing.assert_close(model(x=x), net(x))
        ours = torch.autograd.grad(model(x=x).sum(), net.map.weight)
        torch.testing.assert_close(ours, torch.autograd.grad(net(x).sum(), net.map.weight))
        with torch.no_grad():
            net.map.weight.mul_(-3)
            net.map.bias.neg_()
            net.mask[0] = 0


def test_under_torch_compile_training_is_seen() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def graph(self, g: gn.Graph) -> None:
            g.output("y", self.drop(g.input("x", (64,), over="time")))

    model = gn.compile(Dropping())
    fast, x = torch.compile(model, backend="eager"), torch.ones(1, 2, 64)
    assert (fast(x=x) == 0).any()
    model.eval()
    assert not (fast(x=x) == 0).any()
    model.train()
    assert (fast(x=x) == 0).any()


def carried(net: Any, x: Any) -> Any:
    net.plain = net.plain * 0.9 + x
    return net.plain


def counted(net: Any, x: Any) -> Any:
    net.tau = net.tau + 1
    return x * net.tau


@pytest.mark.parametrize("run", [carried, counted])
def test_what_a_module_would_carry_from_call_to_call_is_refused(run: Any) -> None:
    class Carrying(Net):
        def graph(self, g: gn.Graph) -> None:
            g.output("y", run(self, g.input("x", (3,), over="time")))

    with pytest.raises(errors.UnsupportedError, match="from call to call") as caught:
        gn.compile(Carrying())
    assert f"test_watch.py:{run.__code__.co_firstlineno + 1}" in str(caught.value)


def test_what_a_module_keeps_of_a_drawing_to_look_at() -> None:
    class Keeping(nn.Module):
        def graph(self, g: gn.Graph) -> None:
            self.seen = g.input("x", (3,), over="time") * 2
            g.output("y", self.seen)

    net, x = Keeping(), torch.randn(1, 2, 3)
    assert torch.equal(gn.compile(net)(x=x), x * 2)
    assert isinstance(net.seen, gn.Value)
