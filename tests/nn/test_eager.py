"""Library modules against independent implementations in plain torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn
from tests.nn import eager
from tests.nn.common import OverTime, close, doubles, randomised, run

WIDTH, HIDDEN = 5, 6
CELLS: dict[str, tuple[Any, dict[str, Any], eager.Step]] = {
    "lstm": (gn.nn.LSTM, {}, eager.lstm),
    "peepholes": (gn.nn.LSTM, {"peepholes": True}, eager.lstm),
    "peepholes_projected": (gn.nn.LSTM, {"peepholes": True, "proj_size": 4}, eager.lstm),
    "coupled": (gn.nn.LSTM, {"coupled": True}, eager.coupled_lstm),
    "layer_norm_lstm": (gn.nn.LSTM, {"layer_norm": True}, eager.layer_norm_lstm),
    "gru_before": (gn.nn.GRU, {"reset": "before"}, eager.gru_before),
    "layer_norm_gru_after": (
        gn.nn.GRU, {"reset": "after", "layer_norm": True}, eager.layer_norm_gru
    ),
    "layer_norm_gru_before": (
        gn.nn.GRU, {"layer_norm": True}, partial(eager.layer_norm_gru, after=False)
    ),
    "multiplicative_rnn": (gn.nn.MultiplicativeRNN, {}, eager.multiplicative_rnn),
    "multiplicative_lstm": (gn.nn.MultiplicativeLSTM, {}, eager.multiplicative_lstm),
    "hyper_lstm": (gn.nn.HyperLSTM, {"hyper_size": 4, "embedding_size": 3}, eager.hyper_lstm),
    "min_gru": (gn.nn.MinGRU, {}, eager.min_gru),
    "sru": (gn.nn.SRU, {"alpha": 1.5}, partial(eager.sru, alpha=1.5)),
    "sru_peepholes": (gn.nn.SRU, {"peepholes": True}, eager.sru),
}  # fmt: skip


@pytest.mark.parametrize("name", CELLS)
def test_equals_eager(name: str) -> None:
    make, options, step = CELLS[name]
    net = OverTime(randomised(make(WIDTH, HIDDEN, **options)), WIDTH)
    model, x = gn.compile(net), doubles(3, 7, WIDTH)
    variables = {"x": x, **dict(net.named_parameters())}
    expected = run(lambda: eager.unrolled(step, net.module.l0, x), variables)
    found = run(lambda: _ordered(model(x=x), [k for k in expected if k[0] != "d"]), variables)
    close(found, expected, 1e-12)


def _ordered(found: Any, like: Any) -> Any:
    return {k: found[k] for k in like}


def test_sru_of_equal_widths_has_no_skip_weights() -> None:
    net = OverTime(randomised(gn.nn.SRU(WIDTH, WIDTH)), WIDTH)
    assert isinstance(net.module.l0.skip, nn.Identity)
    x = doubles(2, 4, WIDTH)
    expected = eager.unrolled(eager.sru, net.module.l0, x)
    close(gn.compile(net)(x=x), _ordered(expected, ["y", "c", "h"]), 1e-12)


class Control(nn.Module):
    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def graph(self, g: gn.Graph) -> None:
        x, z = g.input("x", (WIDTH,), over="time"), g.input("z", (3,), over="time")
        g.output("y", self.module(x, z=z))


@pytest.mark.parametrize("bias", [True, False])
def test_multiplicative_equals_bilinear(bias: bool) -> None:
    theirs = nn.Bilinear(WIDTH, 3, HIDDEN, bias=bias).double()
    net = Control(gn.nn.Multiplicative.from_torch(theirs))
    x, z = doubles(2, 4, WIDTH), doubles(2, 4, 3, seed=1)
    ours = dict(zip(theirs.state_dict(), net.parameters()))
    found = run(lambda: gn.compile(net)(x=x, z=z), {"x": x, "z": z, **ours})
    expected = run(lambda: theirs(x, z), {"x": x, "z": z, **dict(theirs.named_parameters())})
    close(found, expected, 1e-12)
    whole = torch.einsum("ijk,btk,btj->bti", theirs.weight, z, x)
    close({"y": found["y"] - (theirs.bias if bias else 0)}, {"y": whole}, 1e-12)


@pytest.mark.parametrize("kernel, dilation", [(1, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("time", [1, 9])
def test_temporal_conv_equals_conv1d(kernel: int, dilation: int, time: int) -> None:
    theirs = nn.Conv1d(WIDTH, HIDDEN, kernel, dilation=dilation).double()
    net = OverTime(gn.nn.TemporalConv.from_torch(theirs), WIDTH)
    x = doubles(2, time, WIDTH)
    ours = dict(zip(theirs.state_dict(), net.parameters()))

    def conv() -> torch.Tensor:
        padded = F.pad(x.transpose(1, 2), ((kernel - 1) * dilation, 0))
        return theirs(padded).transpose(1, 2)

    found = run(lambda: gn.compile(net)(x=x), {"x": x, **ours})
    close(found, run(conv, {"x": x, **dict(theirs.named_parameters())}), 1e-12)


def test_hyper_equals_a_functional_call() -> None:
    inner = nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, HIDDEN)).double()
    hyper = randomised(gn.nn.Hyper(inner, 3))
    x, z = doubles(2, 3, WIDTH), doubles(2, 3, 3, seed=1)
    y = gn.compile(Control(hyper))(x=x, z=z)
    for b in range(2):
        for t in range(3):
            flat, weights, start = hyper.weights(z[b, t]), {}, 0
            for name, p in inner.named_parameters():
                weights[name] = flat[start : start + p.numel()].view_as(p)
                start += p.numel()
            expected = torch.func.functional_call(inner, weights, (x[b, t],))
            close({"y": y[b, t]}, {"y": expected}, 1e-12)


def test_hyper_starts_near_its_module() -> None:
    torch.manual_seed(0)
    inner = nn.Linear(WIDTH, HIDDEN)
    hyper = gn.nn.Hyper(inner, 3)
    x, z = torch.randn(2, 4, WIDTH), torch.randn(2, 4, 3)
    y = gn.compile(Control(hyper))(x=x, z=z)
    assert torch.allclose(y, inner(x), atol=0.3)
    assert not torch.equal(y, inner(x))
    assert [n for n, _ in hyper.named_parameters()] == ["weights.weight", "weights.bias"]


class Tied(nn.Module):
    """A module with a parameter that it uses twice, a buffer and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.b.weight = self.a.weight
        self.register_buffer("scale", torch.full((WIDTH,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(F.dropout(self.a(x), 0.5, self.training)) * self.scale


def test_hyper_with_tied_weights_buffers_and_modes() -> None:
    inner = Tied()
    hyper = gn.nn.Hyper(inner, 3)
    assert hyper.weights.out_features == WIDTH * (WIDTH + 2)
    with torch.no_grad():
        hyper.weights.weight.zero_()
    x, z = torch.randn(2, 4, WIDTH), torch.randn(2, 4, 3)
    model = gn.compile(Control(hyper))
    assert not torch.equal(model(x=x, z=z), model(x=x, z=z))
    close({"y": model.eval()(x=x, z=z)}, {"y": inner.eval()(x)}, 1e-5)
