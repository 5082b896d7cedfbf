"""Backend "torch" equals "reference", outputs and all gradients, for every module and option."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from tests.nn.common import LENGTHS, OverTime, compare_backends, doubles, randomised

WIDTH, HIDDEN = 5, 4
LSTM, GRU, RNN = gn.nn.LSTM, gn.nn.GRU, gn.nn.RNN
RECURRENT: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (RNN, {}),
    "rnn_relu": (RNN, {"nonlinearity": "relu"}),
    "rnn_layer_norm": (RNN, {"layer_norm": True}),
    "lstm": (LSTM, {}),
    "lstm_without_bias": (LSTM, {"bias": False}),
    "lstm_layers_both_ways": (LSTM, {"num_layers": 2, "bidirectional": True}),
    "lstm_projected": (LSTM, {"proj_size": 3}),
    "lstm_peepholes": (LSTM, {"peepholes": True}),
    "lstm_coupled": (LSTM, {"coupled": True}),
    "lstm_coupled_peepholes": (LSTM, {"coupled": True, "peepholes": True}),
    "lstm_layer_norm": (LSTM, {"layer_norm": True}),
    "lstm_zoneout": (LSTM, {"zoneout": {"h": 0.2, "c": 0.5}}),
    "lstm_recurrent_dropout": (LSTM, {"recurrent_dropout": 0.4}),
    "lstm_candidate_dropout": (LSTM, {"candidate_dropout": 0.4}),
    "lstm_dropout_between": (LSTM, {"num_layers": 2, "dropout": 0.4}),
    "lstm_everything": (
        LSTM,
        {
            "num_layers": 2, "bidirectional": True, "dropout": 0.2, "zoneout": 0.2,
            "proj_size": 3, "peepholes": True, "layer_norm": True,
            "recurrent_dropout": 0.2, "candidate_dropout": 0.2,
        },
    ),
    "gru_before": (GRU, {"reset": "before"}),
    "gru_after": (GRU, {"reset": "after"}),
    "gru_before_layer_norm": (GRU, {"reset": "before", "layer_norm": True}),
    "gru_after_layer_norm": (GRU, {"reset": "after", "layer_norm": True}),
    "gru_before_both_ways": (GRU, {"num_layers": 2, "bidirectional": True}),
    "gru_after_both_ways": (GRU, {"reset": "after", "num_layers": 2, "bidirectional": True}),
    "rnn_both_ways": (RNN, {"num_layers": 2, "bidirectional": True}),
    "gru_noise": (GRU, {"zoneout": 0.3, "recurrent_dropout": 0.3, "candidate_dropout": 0.3}),
    "multiplicative_rnn": (gn.nn.MultiplicativeRNN, {}),
    "multiplicative_lstm": (gn.nn.MultiplicativeLSTM, {}),
    "multiplicative_lstm_layer_norm": (gn.nn.MultiplicativeLSTM, {"layer_norm": True}),
    "hyper_lstm": (gn.nn.HyperLSTM, {"hyper_size": 3, "embedding_size": 2}),
    "hyper_lstm_options": (
        gn.nn.HyperLSTM,
        {"hyper_size": 3, "embedding_size": 2, "layer_norm": True, "coupled": True},
    ),
    "min_gru": (gn.nn.MinGRU, {}),
    "min_gru_both_ways": (gn.nn.MinGRU, {"bidirectional": True}),
    "sru": (gn.nn.SRU, {"alpha": 1.5}),
    "sru_peepholes": (gn.nn.SRU, {"peepholes": True}),
    "sru_layers": (gn.nn.SRU, {"num_layers": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent(name: str) -> None:
    make, options = RECURRENT[name]
    net = OverTime(randomised(make(WIDTH, HIDDEN, **options)), WIDTH, init=True)
    starts = {
        name: doubles(3, size, seed=k)
        for k, (name, size) in enumerate(net.module.state_sizes.items())
    }
    compare_backends(net, LENGTHS, seed=3, x=doubles(3, 4, WIDTH), **starts)


@pytest.mark.parametrize("kernel, dilation", [(1, 1), (3, 1), (2, 3)])
def test_temporal_conv(kernel: int, dilation: int) -> None:
    net = OverTime(randomised(gn.nn.TemporalConv(WIDTH, HIDDEN, kernel, dilation)), WIDTH)
    compare_backends(net, LENGTHS, x=doubles(3, 4, WIDTH))


class Controlled(nn.Module):
    """A module of x and z. z varies over time or is the same at all steps."""

    def __init__(self, module: nn.Module, every_step: bool):
        super().__init__()
        self.module, self.every_step = module, every_step

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        z = g.input("z", (3,), over="time" if self.every_step else ())
        g.output("y", self.module(x, z=z))


@pytest.mark.parametrize("every_step", [False, True], ids=["once", "every_step"])
@pytest.mark.parametrize(
    "module",
    [
        gn.nn.Multiplicative(WIDTH, 3, HIDDEN),
        gn.nn.Multiplicative(WIDTH, 3, HIDDEN, bias=False),
        gn.nn.Hyper(nn.Linear(WIDTH, HIDDEN), 3),
        gn.nn.Hyper(nn.Sequential(nn.Linear(WIDTH, 3), nn.Tanh(), nn.Linear(3, HIDDEN)), 3),
    ],
    ids=["multiplicative", "multiplicative_without_bias", "hyper_linear", "hyper_network"],
)
def test_controlled(module: nn.Module, every_step: bool) -> None:
    z = doubles(3, 4, 3, seed=1) if every_step else doubles(3, 3, seed=1)
    compare_backends(
        Controlled(randomised(module), every_step), LENGTHS, x=doubles(3, 4, WIDTH), z=z
    )


class HyperElman(nn.Module):
    """An Elman network that computes its recurrent map from its state at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.control = nn.Linear(HIDDEN, 2)
        self.map = gn.nn.Hyper(nn.Linear(WIDTH + HIDDEN, HIDDEN), 2)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        h = g.state("h", (HIDDEN,))
        h.next = torch.tanh(self.map(torch.cat([x, h]), z=self.control(h)))
        g.output("y", h.next)


def test_hyper_inside_a_loop() -> None:
    compare_backends(randomised(HyperElman()), LENGTHS, x=doubles(3, 4, WIDTH))


class Decoder(nn.Module):
    """A library module inside another loop, with its last output as an input and two more axes."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = gn.nn.LSTM(WIDTH + HIDDEN, HIDDEN)
        self.first = nn.Linear(WIDTH, HIDDEN)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over=("time", "beam"))
        fed = g.state("fed", (HIDDEN,), over="time", along="beam")
        start = torch.tanh(self.first(gn.first(x, over="time")))
        h = self.lstm(torch.cat([x, fed]), over="time", init={"h": start})
        fed.next = h * 0.5
        g.output("y", h)


def test_inside_another_loop_with_two_axes() -> None:
    compare_backends(randomised(Decoder()), LENGTHS, x=doubles(3, 4, 2, WIDTH))
