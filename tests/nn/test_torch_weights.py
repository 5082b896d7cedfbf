"""Exchange of weights with `torch.nn`, and the errors if torch has no equivalent."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.errors import UnsupportedError
from tests.nn.common import OverTime, close, doubles, randomised

WIDTH, HIDDEN = 5, 6
MODULES = {
    "lstm": nn.LSTM(WIDTH, HIDDEN, 3, bidirectional=True, dropout=0.3),
    "lstm_projected": nn.LSTM(WIDTH, HIDDEN, 2, proj_size=3),
    "lstm_without_bias": nn.LSTM(WIDTH, HIDDEN, bias=False),
    "gru": nn.GRU(WIDTH, HIDDEN, 2, bidirectional=True),
    "rnn": nn.RNN(WIDTH, HIDDEN, 2),
    "relu": nn.RNN(WIDTH, HIDDEN, nonlinearity="relu"),
}
CLASSES = {"LSTM": gn.nn.LSTM, "GRU": gn.nn.GRU, "RNN": gn.nn.RNN}


@pytest.mark.parametrize("name", MODULES)
def test_round_trip(name: str) -> None:
    theirs = MODULES[name].double().eval()
    ours = CLASSES[type(theirs).__name__].from_torch(theirs)
    assert not ours.training
    back = ours.to_torch()
    assert repr(back).replace(", batch_first=True", "") == repr(theirs)
    assert not back.training
    for (key, a), (other, b) in zip(theirs.state_dict().items(), back.state_dict().items()):
        assert key == other and torch.equal(a, b)


@pytest.mark.parametrize(
    "ours",
    [
        gn.nn.LSTM(WIDTH, HIDDEN, 2, True, forget_bias=1.0, orthogonal=True),
        gn.nn.GRU(WIDTH, HIDDEN, reset="after"),
        gn.nn.RNN(WIDTH, HIDDEN, nonlinearity="relu"),
    ],
    ids=["lstm", "gru", "rnn"],
)
def test_to_torch_computes_the_same(ours: gn.nn.RNN) -> None:
    x = doubles(2, 4, WIDTH)
    y = gn.compile(OverTime(ours.double(), WIDTH))(x=x)["y"]
    close({"y": y}, {"y": ours.to_torch()(x)[0]}, 1e-10)


def test_both_gru_variants_exchange_weights_with_torch() -> None:
    theirs = nn.GRU(WIDTH, HIDDEN)
    ours = gn.nn.GRU(WIDTH, HIDDEN, reset="before")
    ours.load_torch(theirs)
    assert torch.equal(ours.l0.weight_hh, theirs.weight_hh_l0)
    assert gn.nn.GRU.from_torch(theirs, reset="before").l0.reset == "before"


def test_parameters_that_torch_lacks_keep_their_values() -> None:
    ours = randomised(gn.nn.LSTM(WIDTH, HIDDEN, peepholes=True))
    before = ours.l0.weight_ci.clone()
    ours.load_torch(nn.LSTM(WIDTH, HIDDEN))
    assert torch.equal(ours.l0.weight_ci, before)


@pytest.mark.parametrize(
    "ours, option",
    [
        (gn.nn.LSTM(WIDTH, HIDDEN, peepholes=True), "peepholes=True"),
        (gn.nn.LSTM(WIDTH, HIDDEN, zoneout=0.1), "zoneout=0.1"),
        (gn.nn.GRU(WIDTH, HIDDEN), "reset='before'"),
        (gn.nn.RNN(WIDTH, HIDDEN, layer_norm=True), "layer_norm=True"),
    ],
    ids=["peepholes", "zoneout", "reset", "layer_norm"],
)
def test_options_that_torch_lacks_are_errors(ours: gn.nn.LSTM, option: str) -> None:
    with pytest.raises(UnsupportedError, match="cannot compute the same as this module") as error:
        ours.to_torch()
    assert option in str(error.value)


def test_a_torch_module_of_other_sizes_is_an_error() -> None:
    with pytest.raises(UnsupportedError, match="lacks parameters for") as error:
        gn.nn.LSTM(WIDTH, HIDDEN).load_torch(nn.LSTM(WIDTH, HIDDEN, 2))
    assert "l1.weight_ih" in str(error.value)
    with pytest.raises(RuntimeError, match="size mismatch"):
        gn.nn.LSTM(WIDTH, HIDDEN).load_torch(nn.LSTM(WIDTH, HIDDEN + 1))


def test_multiplicative_round_trip() -> None:
    theirs = nn.Bilinear(3, 4, 5, bias=False).double()
    back = gn.nn.Multiplicative.from_torch(theirs).to_torch()
    assert repr(back) == repr(theirs) and torch.equal(back.weight, theirs.weight)


def test_temporal_conv_round_trip() -> None:
    theirs = nn.Conv1d(3, 4, 5, dilation=2).double()
    back = gn.nn.TemporalConv.from_torch(theirs).to_torch()
    assert repr(back) == repr(theirs)
    assert torch.equal(back.weight, theirs.weight) and torch.equal(back.bias, theirs.bias)
    with pytest.raises(ValueError, match="groups=1"):
        gn.nn.TemporalConv.from_torch(nn.Conv1d(4, 4, 3, groups=2))


@pytest.mark.parametrize(
    "module",
    [
        gn.nn.LSTM(WIDTH, HIDDEN, 2, True, zoneout={"c": 0.5}, layer_norm=True),
        gn.nn.HyperLSTM(WIDTH, HIDDEN),
        gn.nn.Hyper(nn.Linear(WIDTH, HIDDEN), 3),
        gn.nn.SRU(WIDTH, HIDDEN),
    ],
    ids=["lstm", "hyper_lstm", "hyper", "sru"],
)
def test_copies_and_pickles(module: nn.Module) -> None:
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module)
        for (a, p), (b, q) in zip(module.state_dict().items(), other.state_dict().items()):
            assert a == b and torch.equal(p, q)
