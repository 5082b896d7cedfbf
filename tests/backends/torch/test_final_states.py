"""Final states share no memory: resetting one in place changes nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn

BACKENDS = ("torch", "interpret", "reference")
WIDTH = 3


class Shared(nn.Module):
    """States that share their next value, an input, outputs or an initial parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.rec, self.start = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.randn(WIDTH))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        a, e = (g.state(name, (WIDTH,), init=self.start) for name in "ae")
        b, c, d = g.state("b", (WIDTH,), delay=2), g.state("c", (WIDTH,)), g.state("d", (WIDTH,))
        a.next = b.next = c.next = torch.tanh(self.rec(x) + a)
        d.next, e.next = x, e * 1
        g.output("y", a.next + b + d)
        g.output("a", a.next)
        g.output("last", gn.last(a.next, over="time"))


class Layer(nn.Module):
    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.m = layer

    def graph(self, g: gn.Graph) -> None:
        h = self.m(g.input("x", (WIDTH,), over="time"))
        g.output("y", h)
        g.output("last", gn.last(h, over="time"))


NETS: dict[str, Callable[[], nn.Module]] = {
    "shared": Shared,
    "LSTM": lambda: Layer(gn.nn.LSTM(WIDTH, WIDTH)),
    "GRU": lambda: Layer(gn.nn.GRU(WIDTH, WIDTH, num_layers=2, reset="before")),
    "both ways": lambda: Layer(gn.nn.RNN(WIDTH, WIDTH, bidirectional=True)),
}


def apart(states: dict[str, Tensor], rest: dict[str, Tensor]) -> None:
    """Overwrite each state in turn; nothing else may change."""
    everything = {**{f"state {k}": v for k, v in states.items()}, **rest}
    for name, state in states.items():
        others = {k: v for k, v in everything.items() if k != f"state {name}"}
        before = {k: v.clone() for k, v in others.items()}
        state.add_(1)
        assert [k for k, v in others.items() if not torch.equal(v, before[k])] == [], name


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_final_states_of_a_call(name: str, backend: str, steps: int) -> None:
    model = gn.compile(NETS[name](), backend=backend)
    x = torch.randn(2, steps, WIDTH)
    for given in ({}, {"lengths": {"time": torch.tensor([steps, 1])}}):
        outputs, states, sequences = model(x=x, return_state=True, record=True, **given)
        rest = {f"sequence {k}": v for k, v in sequences.items()}
        apart(states, {"x": x, **dict(model.named_parameters()), **outputs, **rest})
        apart(sequences, {"x": x, **outputs})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in NETS if name != "both ways"])
@torch.no_grad()
def test_states_of_steps(name: str, backend: str) -> None:
    model = gn.compile(NETS[name](), backend=backend)
    first = model.initial_state(batch=2)
    apart(first, dict(model.named_parameters()))
    given = {k: v.clone() for k, v in first.items()}
    x = torch.randn(2, WIDTH)
    outputs, states = model.step(given, x=x)
    rest = {"x": x, **outputs, **{f"before {k}": v for k, v in given.items()}}
    apart(states, {**rest, **dict(model.named_parameters())})
