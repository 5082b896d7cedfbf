"""Random numbers are independent for each example, position and call; the backward reuses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Exponential, Laplace, Normal, Uniform

import graphnn as gn
from graphnn import errors
from tests.tracing.eager import BACKENDS, Cell

N = 2000
Draw = Callable[[Any], Any]

# each draws a tensor of shape (3,), from a value in a graph and from a tensor of shape (3,) eagerly
DRAWS: dict[str, Draw] = {
    "randn": lambda x: torch.randn(3),
    "randn(size=)": lambda x: torch.randn(size=(3,)),
    "rand of a shape": lambda x: torch.rand(x.shape),
    "randint": lambda x: torch.randint(2, 7, (3,)).float(),
    "randint(high)": lambda x: torch.randint(5, size=(3,)).float(),
    "randperm": lambda x: torch.randperm(3).float(),
    "normal(mean, std)": lambda x: torch.normal(x, x.abs() + 1),
    "normal(mean, number)": lambda x: torch.normal(x, 0.5),
    "normal(size)": lambda x: torch.normal(1.0, 2.0, (3,)),
    "randn_like": lambda x: torch.randn_like(x) + x,
    "rand_like": lambda x: torch.rand_like(x),
    "randint_like": lambda x: torch.randint_like(x, 3, 9),
    "bernoulli": lambda x: torch.bernoulli(torch.sigmoid(x)),
    "x.bernoulli(p)": lambda x: x.bernoulli(0.3),
    "multinomial": lambda x: torch.multinomial(torch.softmax(x, 0), 3, replacement=True).float(),
    "empty.normal_": lambda x: torch.empty(3).normal_(1, 2),
    "empty_like.uniform_": lambda x: torch.empty_like(x).uniform_(-1, 3),
    "new_empty.exponential_": lambda x: x.new_empty(3).exponential_(2),
    "zeros.bernoulli_": lambda x: torch.zeros(3).bernoulli_(0.25),
    "zeros.random_": lambda x: torch.zeros(3).random_(2, 5),
    "log_normal_": lambda x: torch.empty(3).log_normal_(0.1, 0.3),
    "dropout": lambda x: F.dropout(x + 1, 0.4, True),
    "nn.Dropout": lambda x: nn.Dropout(0.4)(x + 1),
    "alpha_dropout": lambda x: F.alpha_dropout(x + 1, 0.4, True),
    "alpha_dropout of all": lambda x: F.alpha_dropout(x + 1, 1.0, True) + torch.randn(3),
    "dropout1d": lambda x: F.dropout1d((x + 1)[:, None].expand(3, 2), 0.4, True)[:, 0],
    "rrelu": lambda x: F.rrelu(x - 1, 0.1, 0.5, True),
    "gumbel_softmax": lambda x: F.gumbel_softmax(x, tau=0.7),
    "gumbel_softmax(hard)": lambda x: F.gumbel_softmax(x, tau=0.7, hard=True),
    "Normal.rsample": lambda x: Normal(x, x.abs() + 1).rsample(),
    "Normal.sample": lambda x: Normal(x, x.abs() + 1).sample(),
    "Uniform.rsample": lambda x: Uniform(x, x + 2).rsample(),
    "Exponential.rsample": lambda x: Exponential(x.abs() + 1).rsample(),
    "Laplace.rsample": lambda x: Laplace(x, x.abs() + 1).rsample(),
    "Bernoulli.sample": lambda x: Bernoulli(logits=x).sample(),
    "Categorical.sample": lambda x: Categorical(logits=x).sample((3,)).float(),
}


class Net(nn.Module):
    def __init__(self, draw: Draw):
        super().__init__()
        self.draw = draw

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        g.output("y", x * 0 + self.draw(x))


def moments(y: Tensor) -> Tensor:
    return torch.stack([y.mean(0), y.std(0), (y > 0.7).to(y.dtype).mean(0), y.abs().sqrt().mean(0)])


@pytest.mark.parametrize("name", DRAWS)
def test_distributions_are_torchs(name: str) -> None:
    """Moments over many examples agree with eager torch within five standard errors."""
    draw = DRAWS[name]
    torch.manual_seed(0)
    x = torch.tensor([-0.5, 0.25, 1.0])
    want = torch.stack([draw(x) for _ in range(N)])
    got = gn.compile(Net(draw))(x=x.expand(N // 4, 4, 3)).reshape(N, 3)
    error = 5 * (want.std(0) + 0.5) * (2 / N) ** 0.5
    assert (moments(got) - moments(want)).abs().amax(0).lt(error * 1.5).all()
    # every call draws again
    flat = got.reshape(N // 4, 4, 3)
    assert not torch.equal(flat[0], flat[1]) or not torch.equal(flat[1], flat[2])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["randn", "empty.normal_", "Normal.rsample", "randperm"])
def test_fresh_for_every_example_position_and_call(name: str, backend: str) -> None:
    def run(self: Any, x: Any, h: Any) -> Any:
        noise = DRAWS[name](x)
        return noise, torch.tanh(noise + h)

    model, x = gn.compile(Cell(run), backend=backend), torch.ones(3, 8, 3)
    first, second = model(x=x), model(x=x)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert len({tuple(v.tolist()) for v in first[0]}) > 2
    torch.manual_seed(5)
    again = model(x=x)
    torch.manual_seed(5)
    assert torch.equal(again, model(x=x))


def test_the_same_noise_wherever_it_is_read() -> None:
    def run(self: Any, x: Any, h: Any) -> Any:
        noise = torch.randn(3)
        twice = noise * 2
        return (x + noise) - (x + twice) / 2 - x / 2, torch.tanh(h + noise)

    y = gn.compile(Cell(run))(x=torch.randn(2, 4, 3))
    torch.testing.assert_close(y, torch.zeros_like(y), atol=1e-6, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["gumbel_softmax", "Normal.rsample", "rrelu", "dropout"])
def test_the_backward_sees_the_forwards_noise(name: str, backend: str) -> None:
    """Gradients agree with finite differences of calls with the same random numbers."""
    draw = DRAWS[name]

    def run(self: Any, x: Any, h: Any) -> Any:
        y = draw(self.a(h) + x)
        return y, torch.tanh(y)

    torch.manual_seed(0)
    model = gn.compile(Cell(run, a=nn.Linear(3, 3)).double(), backend=backend)
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 4, 3, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return (model(x=x) * weights).sum()

    (gradient,) = torch.autograd.grad(loss(x), x)
    step, way = 1e-6, torch.randn(2, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        slope = (loss(x + step * way) - loss(x - step * way)) / (2 * step)
    torch.testing.assert_close((gradient * way).sum(), slope, rtol=1e-5, atol=1e-6)


# --- constants and initialisation

CONSTANTS: dict[str, Draw] = {
    "dropout": lambda x: F.dropout(torch.ones(64)),
    "bernoulli": lambda x: torch.bernoulli(torch.full((64,), 0.5)),
    "randn_like": lambda x: torch.randn_like(torch.zeros(64)),
    "randint_like": lambda x: torch.randint_like(torch.zeros(64), 1000),
    "gumbel_softmax": lambda x: F.gumbel_softmax(torch.zeros(64)),
    "multinomial": lambda x: torch.multinomial(torch.ones(500), 64, replacement=True).float(),
    "Normal.sample": lambda x: Normal(0.0, 1.0).sample((64,)),
    "Bernoulli.sample": lambda x: Bernoulli(0.5).sample((64,)),
    "Categorical.sample": lambda x: Categorical(torch.ones(5)).sample((64,)).float(),
    "Categorical.sample of one": lambda x: Categorical(torch.ones(10**6)).sample() + 0 * x,
    "init.normal_": lambda x: nn.init.normal_(torch.empty(64)),
    "init.uniform_ of zeros_like": lambda x: nn.init.uniform_(torch.zeros_like(x), 1, 2),
    "init.normal_ of empty_like": lambda x: nn.init.normal_(torch.empty_like(x), std=2.0),
    "init.kaiming_normal_": lambda x: nn.init.kaiming_normal_(torch.empty(8, 8)).reshape(64),
    "init.kaiming_uniform_": lambda x: nn.init.kaiming_uniform_(torch.empty(8, 8)).reshape(64),
    "init.xavier_uniform_": lambda x: nn.init.xavier_uniform_(torch.empty(8, 8)).reshape(64),
}


class Wide(nn.Module):
    def __init__(self, draw: Draw):
        super().__init__()
        self.draw, self.w = draw, nn.Parameter(torch.ones(64))
        self.register_buffer("b", torch.ones(64))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (64,), over="time")
        g.output("y", x * 0 + self.draw(x))
        g.output("of a parameter", x * 0 + torch.randn_like(self.w))
        g.output("of a buffer", x * 0 + F.dropout(self.b, training=True))


@pytest.mark.parametrize("name", CONSTANTS)
def test_noise_in_the_shape_of_a_constant_is_fresh(name: str) -> None:
    torch.manual_seed(0)
    x, draw = torch.zeros(8, 5, 64), CONSTANTS[name]
    model = gn.compile(Wide(draw))
    first, second = model(x=x), model(x=x)
    both = torch.cat([first["y"], second["y"]]).reshape(-1, 64)
    assert len(both.unique(dim=0)) == 80
    want = torch.stack([draw(x[0, 0]) for _ in range(80)])
    if want.std(0).any():
        error = 6 * want.std() / len(want) ** 0.5
        assert (both.mean() - want.mean()).abs() < error
        assert (both.std() - want.std()).abs() < error
    for once in ("of a parameter", "of a buffer"):
        assert len(first[once].reshape(-1, 64).unique(dim=0)) == 1


class Started(nn.Module):
    """Parameters that start from random numbers, in all ways that torch offers."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(nn.init.normal_(torch.empty(3)))
        self.b = nn.Parameter(torch.empty(3))
        self.c = nn.Parameter(torch.empty(4))
        nn.init.uniform_(self.b.data)
        self.c.data.normal_()
        with torch.no_grad():
            nn.init.trunc_normal_(self.c[:2])

    def forward(self, x: Any) -> Any:
        return x * self.a + self.b + self.c[:3]


def test_what_parameters_start_from_is_drawn_once() -> None:
    class Made(nn.Module):
        def graph(self, g: gn.Graph) -> None:
            net, start = g.module("net", Started()), torch.empty(3)
            nn.init.normal_(start)
            g.output("y", net(g.input("x", (3,), over="time")) + g.parameter("w", start))

    model, x = gn.compile(Made()), torch.randn(2, 4, 3)
    assert all(type(p) is nn.Parameter for p in model.parameters())
    torch.testing.assert_close(model(x=x), model.net(x) + model.w)
    assert len(model.net.c.unique()) == 4


# --- training flags


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.other = nn.Dropout(0.5), nn.Dropout(0.5)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (64,), over="time")
        g.output("drop", self.drop(x))
        g.output("other", self.other(x))
        g.output("always", F.dropout(x, 0.5, training=True))
        g.output("never", F.dropout(x, 0.5, training=False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_module_has_its_own_training_flag(backend: str) -> None:
    net, x = Dropping(), torch.ones(1, 2, 64)
    model = gn.compile(net, backend=backend)

    def drops() -> list[str]:
        return [name for name, y in model(x=x).items() if (y == 0).any()]

    assert drops() == ["drop", "other", "always"]
    model.eval()
    assert drops() == ["always"]
    model.drop.train()
    assert drops() == ["drop", "always"]
    net.train()
    assert model.training and drops() == ["drop", "other", "always"]
    net.drop.p = 0.0
    assert drops() == ["other", "always"]


def test_a_bare_graph_has_them_too() -> None:
    g = gn.Graph()
    drop, x = g.module("drop", nn.Dropout(0.5)), g.input("x", (64,), over="time")
    g.output("y", drop(x))
    model, x = gn.compile(g), torch.ones(1, 2, 64)
    assert (model(x=x) == 0).any()
    model.eval()
    assert not (model(x=x) == 0).any()
    drop.train()
    assert (model(x=x) == 0).any()


# --- parameters, and unsupported functions


def test_a_parameter_that_starts_from_noise() -> None:
    class Made(nn.Module):
        def graph(self, g: gn.Graph) -> None:
            x = g.input("x", (3,), over="time")
            y = x * g.parameter("w", torch.randn(3) * 2)
            seed = torch.Generator().manual_seed(1)
            g.output("y", y + g.parameter("b", torch.randn(3, generator=seed) * 2))

    torch.manual_seed(0)
    model = gn.compile(Made())
    torch.manual_seed(0)
    assert torch.equal(model.w, torch.randn(3) * 2)
    seed = torch.Generator().manual_seed(1)
    assert torch.equal(model.b, torch.randn(3, generator=seed) * 2)


def test_modules_made_while_drawing_start_as_torch_starts_them() -> None:
    class Made(nn.Module):
        def graph(self, g: gn.Graph) -> None:
            net = g.module("net", nn.Sequential(nn.Linear(3, 3), nn.Tanh()))
            nn.init.orthogonal_(net[0].weight)
            g.output("y", net(g.input("x", (3,), over="time")))

    torch.manual_seed(0)
    model = gn.compile(Made())
    torch.manual_seed(0)
    want = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    nn.init.orthogonal_(want[0].weight)
    assert torch.equal(model.net[0].weight, want[0].weight)


UNDRAWN: dict[str, Draw] = {
    "poisson": lambda x: torch.poisson(x.abs()),
    "gamma": lambda x: torch.distributions.Gamma(x.abs() + 1, x.abs() + 1).rsample(),
    "multinomial without replacement": lambda x: torch.multinomial(torch.softmax(x, 0), 2),
    "a generator": lambda x: torch.randn(3, generator=torch.Generator()),
    "a generator, computed with": lambda x: torch.randn(3, generator=torch.Generator()) * 2 + 1,
    "init.trunc_normal_": lambda x: nn.init.trunc_normal_(torch.empty(3)),
    "init.trunc_normal_ of empty_like": lambda x: nn.init.trunc_normal_(torch.empty_like(x)),
    "init.orthogonal_": lambda x: nn.init.orthogonal_(torch.empty(3, 3))[0],
    "noise of a constant": lambda x: torch.poisson(torch.ones(3)),
}


@pytest.mark.parametrize("name", UNDRAWN)
def test_random_calls_that_cannot_be_repeated_are_refused(name: str) -> None:
    with pytest.raises(errors.UnsupportedError) as caught:
        gn.compile(Net(UNDRAWN[name]))
    assert "test_random.py" in str(caught.value)
