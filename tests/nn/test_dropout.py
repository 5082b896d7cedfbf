"""Dropout and zoneout: seeds, masks, and evaluation mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from tests.nn import eager
from tests.nn.common import LENGTHS, OverTime, close, doubles, randomised

WIDTH, HIDDEN = 5, 6
NOISE: dict[str, dict[str, Any]] = {
    "between_layers": {"num_layers": 2, "dropout": 0.5},
    "recurrent": {"recurrent_dropout": 0.5},
    "candidate": {"candidate_dropout": 0.5},
    "zoneout": {"zoneout": 0.5},
}


def seeded(model: Any, seed: int, **inputs: Any) -> Tensor:
    torch.manual_seed(seed)
    return model(**inputs)["y"]


@pytest.mark.parametrize("cell", [gn.nn.LSTM, gn.nn.GRU], ids=["lstm", "gru"])
@pytest.mark.parametrize("noise", NOISE)
def test_one_seed_gives_one_result(noise: str, cell: Any) -> None:
    model = gn.compile(OverTime(randomised(cell(WIDTH, HIDDEN, **NOISE[noise])), WIDTH))
    x = doubles(3, 4, WIDTH)
    first = seeded(model, 1, x=x)
    assert torch.equal(first, seeded(model, 1, x=x))
    assert not torch.equal(first, seeded(model, 2, x=x))
    model.eval()
    still = seeded(model, 1, x=x)
    assert torch.equal(still, seeded(model, 2, x=x))
    assert not torch.equal(still, first)
    model.train()
    assert torch.equal(first, seeded(model, 1, x=x))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("noise", ["between_layers", "recurrent", "candidate"])
def test_dropout_does_nothing_in_evaluation(noise: str, backend: str) -> None:
    noisy = randomised(gn.nn.LSTM(WIDTH, HIDDEN, **NOISE[noise]))
    plain = gn.nn.LSTM(WIDTH, HIDDEN, noisy.num_layers).double()
    plain.load_state_dict(noisy.state_dict())
    x = doubles(3, 4, WIDTH)
    quiet = gn.compile(OverTime(noisy, WIDTH), backend=backend).eval()
    expected = gn.compile(OverTime(plain, WIDTH))(x=x, lengths=LENGTHS)
    close({"y": quiet(x=x, lengths=LENGTHS)["y"]}, {"y": expected["y"]}, 1e-12)


def test_zoneout_in_evaluation_is_the_expectation() -> None:
    rates = {"h": 0.2, "c": 0.6}
    lstm = randomised(gn.nn.LSTM(WIDTH, HIDDEN, zoneout=rates))

    def step(p: eager.P, x: Tensor, **states: Tensor) -> dict[str, Tensor]:
        after = eager.lstm(p, x, **states)
        return {k: rates[k] * states[k] + (1 - rates[k]) * v for k, v in after.items()}

    x = doubles(3, 6, WIDTH)
    found = gn.compile(OverTime(lstm, WIDTH)).eval()(x=x)
    close({k: found[k] for k in "hc"}, _states(step, lstm.l0, x), 1e-12)


def _states(step: eager.Step, cell: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {k: v for k, v in eager.unrolled(step, cell, x).items() if k in "hc"}


def test_zoneout_draws_units_at_each_step() -> None:
    lstm = randomised(gn.nn.LSTM(WIDTH, 40, zoneout={"c": 0.3}))
    torch.manual_seed(0)
    c = gn.compile(OverTime(lstm, WIDTH))(x=doubles(4, 30, WIDTH))["c"]
    same = c[:, 1:] == c[:, :-1]
    assert abs(same.double().mean() - 0.3) < 0.03
    assert not torch.equal(same[:, 0], same[:, 1])
    assert not torch.equal(same[0], same[1])


def test_full_zoneout_keeps_the_initial_state() -> None:
    model = gn.compile(
        OverTime(randomised(gn.nn.GRU(WIDTH, HIDDEN, zoneout=1.0)), WIDTH, init=True)
    )
    h = doubles(3, HIDDEN)
    assert torch.equal(model(x=doubles(3, 4, WIDTH), h=h)["y"], h[:, None].expand(3, 4, HIDDEN))


def test_recurrent_dropout_uses_one_mask_per_sequence() -> None:
    # without input weights and with U = 1, exactly the dropped units are tanh(b) at every step
    rnn = gn.nn.RNN(WIDTH, 50, recurrent_dropout=0.4).double()
    with torch.no_grad():
        rnn.l0.weight_ih.zero_()
        rnn.l0.weight_hh.copy_(torch.eye(50))
        rnn.l0.bias_ih.fill_(0.5)
        rnn.l0.bias_hh.zero_()
    torch.manual_seed(0)
    y = gn.compile(OverTime(rnn, WIDTH))(x=doubles(4, 6, WIDTH))["y"]
    dropped = y[:, 1:] == torch.tensor(0.5, dtype=y.dtype).tanh()
    assert (dropped == dropped[:, :1]).all()
    assert abs(dropped.double().mean() - 0.4) < 0.1
    assert not torch.equal(dropped[0], dropped[1])


class Locked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = gn.nn.LockedDropout(0.25)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (20,), over=("time", "source"))
        g.output("y", self.dropout(x, over="time"))


def test_locked_dropout() -> None:
    model, x = gn.compile(Locked()), torch.ones(3, 5, 8, 20)
    torch.manual_seed(0)
    y = model(x=x)
    assert (y == y[:, :1]).all()
    assert sorted(set(y.flatten().tolist())) == [0.0, pytest.approx(4 / 3)]
    assert abs((y == 0).float().mean() - 0.25) < 0.05
    assert not torch.equal(y[:, 0, 0], y[:, 0, 1])
    assert torch.equal(model.eval()(x=x), x)


def test_a_bare_graph_follows_train_and_eval() -> None:
    g = gn.Graph("bare")
    x = g.input("x", (WIDTH,), over="time")
    g.output("y", g.module("lstm", gn.nn.LSTM(WIDTH, HIDDEN, zoneout=0.5, dropout=0.5))(x))
    model, x = gn.compile(g), torch.randn(2, 4, WIDTH)
    torch.manual_seed(0)
    noisy, quiet = model(x=x), model.eval()(x=x)
    assert not torch.equal(noisy, quiet)
    assert torch.equal(quiet, model(x=x))
