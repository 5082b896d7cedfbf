"""Recurrent modules: layers, directions, state names, initial states, axes, weights, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn
from graphnn.errors import AxisError, UnsupportedError
from tests.nn.common import LENGTHS, OverTime, compare_backends, doubles, randomised

WIDTH, HIDDEN = 5, 6


class Declared(nn.Module):
    """A network that a function declares with one module."""

    def __init__(self, module: nn.Module, declare: Callable[[gn.Graph, Any], None]):
        super().__init__()
        self.rnn, self.start, self.declare = module, nn.Parameter(torch.randn(HIDDEN)), declare

    def graph(self, g: gn.Graph) -> None:
        self.declare(g, self)


def sequence(g: gn.Graph, over: Any = "time") -> gn.Value:
    return g.input("x", (WIDTH,), over=over)


def test_names_of_states() -> None:
    lstm = gn.nn.LSTM(WIDTH, HIDDEN, 2, bidirectional=True, proj_size=3)
    names = ["h", "c", "h_l0_reverse", "c_l0_reverse", "h_l1", "c_l1"]
    names += ["h_l1_reverse", "c_l1_reverse"]
    assert list(lstm.state_sizes) == names
    assert set(lstm.state_sizes.values()) == {3, HIDDEN}

    def declare(g: gn.Graph, net: Any) -> None:
        y, states = net.rnn(sequence(g), with_states=True)
        assert list(states) == names and y.shape == (6,) and states["c_l1"].shape == (HIDDEN,)
        assert y.axes == states["c"].axes == ("time",)
        g.output("y", y)

    _, final = gn.compile(Declared(lstm, declare))(x=torch.randn(2, 3, WIDTH), return_state=True)
    assert set(final) == {f"rnn.{name}" for name in names}


def test_two_calls_of_one_module_use_the_same_weights() -> None:
    def declare(g: gn.Graph, net: Any) -> None:
        once = net.rnn(sequence(g))
        g.output("y", net.rnn(once))

    net = Declared(randomised(gn.nn.GRU(WIDTH, WIDTH)), declare).double()
    compare_backends(net, LENGTHS, x=doubles(3, 4, WIDTH))
    _, final = gn.compile(net)(x=doubles(3, 4, WIDTH), return_state=True)
    assert set(final) == {"rnn.h", "rnn.h_2"}


def test_initial_states_of_every_kind() -> None:
    constant = torch.linspace(-1, 1, HIDDEN, dtype=torch.float64)

    def declare(g: gn.Graph, net: Any) -> None:
        x = sequence(g)
        value = torch.tanh(gn.mean(x, over="time").sum() * g.value(net.start))
        for name, init in {"number": 0.5, "tensor": constant, "learned": net.start}.items():
            g.output(name, net.rnn(x, init={"h": init, "c_l0_reverse": value}))

    compare_backends(
        Declared(randomised(gn.nn.LSTM(WIDTH, HIDDEN, bidirectional=True)), declare).double(),
        LENGTHS,
        x=doubles(3, 4, WIDTH),
    )


def test_other_axes_are_kept() -> None:
    def declare(g: gn.Graph, net: Any) -> None:
        x = sequence(g, ("source", "time"))
        y, states = net.rnn(x, over="time", with_states=True)
        assert states["h_l0_reverse"].axes == ("source", "time")
        g.output("y", y)
        g.output("across", net.rnn(x, over="source"))

    net = Declared(randomised(gn.nn.GRU(WIDTH, 3, bidirectional=True)), declare).double()
    x = doubles(3, 2, 4, WIDTH)
    compare_backends(net, LENGTHS, x=x)
    model = gn.compile(OverTime(net.rnn, WIDTH))
    whole = gn.compile(net)(x=x)
    assert torch.allclose(whole["y"][:, 1], model(x=x[:, 1])["y"], atol=1e-12)
    assert torch.allclose(whole["across"][:, :, 2], model(x=x[:, :, 2])["y"], atol=1e-12)


def test_an_axis_of_the_initial_state_only() -> None:
    def declare(g: gn.Graph, net: Any) -> None:
        starts = g.input("starts", (HIDDEN,), over="beam")
        y = net.rnn(sequence(g), over="time", init={"h": starts})
        assert set(y.axes) == {"time", "beam"}
        g.output("y", y)

    net = Declared(randomised(gn.nn.GRU(WIDTH, HIDDEN)), declare).double()
    compare_backends(net, LENGTHS, x=doubles(3, 4, WIDTH), starts=doubles(3, 2, HIDDEN))


class Leaky(gn.nn.Cell):
    """A user-defined cell: h = a h' + (1 - a) relu(W x)."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, keep: float = 0.5):
        super().__init__({"h": hidden_size}, hidden_size)
        self.map, self.keep = nn.Linear(input_size, hidden_size, bias), keep

    def forward(self, x: Any, h: Any) -> dict[str, Any]:
        return {"h": self.keep * h + (1 - self.keep) * F.relu(self.map(x))}


class LeakyLayers(gn.nn.Recurrent):
    cell = Leaky


def test_a_user_defined_cell() -> None:
    layers = LeakyLayers(WIDTH, HIDDEN, num_layers=2, bidirectional=True, keep=0.9, zoneout=0.2)
    assert layers.l1_reverse.map.in_features == 2 * HIDDEN and layers.l1.keep == 0.9
    compare_backends(
        OverTime(randomised(layers), WIDTH, init=False), LENGTHS, seed=1, x=doubles(3, 4, WIDTH)
    )


@pytest.mark.parametrize(
    "module",
    [
        gn.nn.LSTM(WIDTH, HIDDEN, 2),
        gn.nn.GRU(WIDTH, HIDDEN),
        gn.nn.SRU(WIDTH, HIDDEN),
        gn.nn.TemporalConv(WIDTH, HIDDEN, 3, dilation=2),
    ],
    ids=["lstm", "gru", "sru", "temporal_conv"],
)
def test_streaming_step_by_step(module: nn.Module) -> None:
    model, x = gn.compile(OverTime(randomised(module), WIDTH)), doubles(2, 6, WIDTH)
    whole = model(x=x)
    state, rows = model.initial_state(2), []
    for t in range(6):
        y, state = model.step(state, x=x[:, t])
        rows.append(y["y"] if isinstance(y, dict) else y)
    expected = whole["y"] if isinstance(whole, dict) else whole
    assert torch.allclose(torch.stack(rows, 1), expected, atol=1e-12)


@pytest.mark.parametrize("coupled, rows", [(False, slice(6, 12)), (True, slice(0, 6))])
def test_forget_bias(coupled: bool, rows: slice) -> None:
    cell = gn.nn.LSTM(WIDTH, HIDDEN, coupled=coupled, forget_bias=2.0).l0
    assert (cell.bias_ih[rows] == 2).all() and (cell.bias_hh[rows] == 0).all()
    assert cell.bias_ih.abs().max() == 2 and (cell.bias_ih != 2).sum() == len(cell.bias_ih) - 6
    hyper = gn.nn.HyperLSTM(WIDTH, HIDDEN, coupled=coupled, forget_bias=2.0).l0
    assert (hyper.offset[rows] == 2).all() and hyper.offset.sum() == 12


@pytest.mark.parametrize("make", [gn.nn.RNN, gn.nn.LSTM, gn.nn.GRU, gn.nn.MultiplicativeLSTM])
def test_orthogonal_initialisation(make: Any) -> None:
    cell = make(WIDTH, HIDDEN, orthogonal=True).l0
    for block in cell.weight_hh.split(HIDDEN):
        assert torch.allclose(block @ block.T, torch.eye(HIDDEN), atol=1e-5)


def test_initialisation_equals_torch() -> None:
    for module in (gn.nn.LSTM(WIDTH, 100), gn.nn.GRU(WIDTH, 100), gn.nn.RNN(WIDTH, 100)):
        for p in module.parameters():
            assert 0.09 < p.abs().max() <= 0.1


@pytest.mark.parametrize(
    "declare, error, message",
    [
        (
            lambda g, net: net.rnn(sequence(g, ("time", "source"))),
            AxisError,
            "the axis of 'x' to run along is ambiguous",
        ),
        (
            lambda g, net: net.rnn(sequence(g), over="tim"),
            AxisError,
            "there is no axis 'tim'",
        ),
        (
            lambda g, net: net.rnn(sequence(g), init={"z": 0.0}),
            UnsupportedError,
            "GRU has no state 'z' to start",
        ),
        (
            lambda g, net: net.rnn(torch.zeros(2, 3, WIDTH)),
            UnsupportedError,
            "was called outside a graph",
        ),
    ],
    ids=["several_axes", "unknown_axis", "unknown_state", "a_tensor"],
)
def test_errors(declare: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        gn.compile(Declared(gn.nn.GRU(WIDTH, HIDDEN), declare))
    assert "test_recurrent.py" in str(raised.value) and raised.value.fix


def test_wrong_options() -> None:
    with pytest.raises(TypeError, match="peephole"):
        gn.nn.LSTM(WIDTH, HIDDEN, peephole=True)
    with pytest.raises(ValueError, match="'before' or 'after'"):
        gn.nn.GRU(WIDTH, HIDDEN, reset="during")


def test_repr() -> None:
    text = repr(gn.nn.GRU(WIDTH, HIDDEN, 2, True, zoneout=0.1, reset="after"))
    assert "5, 6, num_layers=2, bidirectional=True, zoneout=0.1, reset='after'" in text
    assert "num_layers" not in repr(gn.nn.MinGRU(WIDTH, HIDDEN))
