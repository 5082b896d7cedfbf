"""Parametrized weights are computed by torch, once per call, with their gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import graphnn as gn
from graphnn import errors
from tests.tracing.eager import BACKENDS, Cell, agree


class Symmetric(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.triu() + x.triu(1).mT


def old_weight_norm(linear: nn.Linear) -> Any:
    return nn.utils.weight_norm(linear)


MADE: dict[str, Callable[[nn.Linear], Any]] = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "cayley": lambda m: parametrizations.orthogonal(m, orthogonal_map="cayley"),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m).eval(),
    "one's own": lambda m: parametrize.register_parametrization(m, "weight", Symmetric()),
    "weight and bias": lambda m: parametrize.register_parametrization(
        parametrizations.weight_norm(m), "bias", nn.Tanh()
    ),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", 0.4),
    "weight_norm of before": old_weight_norm,
}


def run(self: Any, x: Any, h: Any) -> Any:
    y = torch.tanh(self.a(h) + x)
    return y, y


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", MADE)
def test_in_a_loop(name: str, backend: str) -> None:
    torch.manual_seed(0)
    net = Cell(run, a=nn.Linear(3, 3))
    MADE[name](net.a)
    agree(net, backend)


def test_spectral_norm_in_training_iterates_once_a_call() -> None:
    torch.manual_seed(0)
    nets = [Cell(run, a=parametrizations.spectral_norm(nn.Linear(3, 3))) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    model, x = gn.compile(nets[0]), torch.randn(1, 1, 3)
    for _ in range(3):
        torch.testing.assert_close(model(x=x), nets[1].eager(x))
    for a, b in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_copies_of_spectral_norm_in_training() -> None:
    torch.manual_seed(0)
    net, x = Cell(run, a=parametrizations.spectral_norm(nn.Linear(3, 3))), torch.randn(1, 1, 3)
    model = gn.compile(net)
    for made in (gn.compile(copy.deepcopy(net)), copy.deepcopy(model)):
        judge = copy.deepcopy(net)
        for _ in range(3):
            torch.testing.assert_close(made(x=x), judge.eager(x))
    before = copy.deepcopy(net)
    torch.testing.assert_close(model(x=x), before.eager(x))
    assert all("forward" not in m.__dict__ for m in net.modules())


def test_library_layers_with_weight_norm() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = gn.nn.LSTM(3, 3)
            parametrizations.weight_norm(self.rnn.l0, "weight_hh")

        def graph(self, g: gn.Graph) -> None:
            g.output("y", self.rnn(g.input("x", (3,), over="time")))

    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 5, 3)
    torchs = nn.LSTM(3, 3, batch_first=True)
    cell = net.rnn.l0
    with torch.no_grad():
        for ours, theirs in (("weight_ih", "weight_ih_l0"), ("weight_hh", "weight_hh_l0")):
            getattr(torchs, theirs).copy_(getattr(cell, ours))
        torchs.bias_ih_l0.copy_(cell.bias_ih)
        torchs.bias_hh_l0.copy_(cell.bias_hh)
    y = gn.compile(net)(x=x)
    torch.testing.assert_close(y, torchs(x)[0])
    y.sum().backward()
    assert cell.parametrizations.weight_hh.original1.grad.any()


def test_a_state_dict_goes_both_ways() -> None:
    nets = [Cell(run, a=parametrizations.weight_norm(nn.Linear(3, 3))) for _ in range(2)]
    model, x = gn.compile(nets[0]), torch.randn(1, 2, 3)
    model.load_state_dict(gn.compile(nets[1]).state_dict())
    torch.testing.assert_close(model(x=x), nets[1].eager(x))


def test_the_module_is_left_as_it_was() -> None:
    net = Cell(run, a=nn.Linear(3, 3))
    prune.l1_unstructured(net.a, "weight", 0.4)
    gn.compile(net)(x=torch.randn(1, 2, 3))
    assert type(net.a.weight) is torch.Tensor
    net.a(torch.randn(2, 3))


@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated:FutureWarning")
def test_the_old_spectral_norm_is_refused_with_an_alternative() -> None:
    net = Cell(run, a=nn.utils.spectral_norm(nn.Linear(3, 3)))
    with pytest.raises(errors.UnsupportedError, match=r"parametrizations\.spectral_norm"):
        gn.compile(net)
    agree(net.eval(), "torch")
