"""Torch layers run on all positions of a ragged batch equal torch on packed sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphnn as gn
from graphnn.backends.torch.runtime import torch_layers
from tests.nn.common import close, run

TIME, BATCH, INPUT, HIDDEN = 9, 5, 3, 4
MANY, FEW = torch.tensor([9, 1, 7, 4, 2]), torch.tensor([9, 0, 0, 0, 0])
LAYERS = {
    "lstm": lambda: nn.LSTM(INPUT, HIDDEN),
    "gru": lambda: nn.GRU(INPUT, HIDDEN),
    "rnn_tanh": lambda: nn.RNN(INPUT, HIDDEN),
    "rnn_relu": lambda: nn.RNN(INPUT, HIDDEN, nonlinearity="relu"),
}


def flipped(x: Tensor, n: Tensor) -> Tensor:
    """Each example in reverse order, within its length."""
    return torch.stack([torch.cat([e[:k].flip(0), e[k:]]) for e, k in zip(x.unbind(1), n)], 1)


def packed(layer: nn.RNNBase, x: Tensor, n: Tensor, h: Tensor, reverse: bool) -> dict[str, Tensor]:
    """Torch's own layer, one example at a time, without padding."""
    x = flipped(x, n) if reverse else x
    rows, ends = [], []
    for k, length in enumerate(n.tolist()):
        start = h[None, k : k + 1]
        given = (start, torch.zeros_like(start)) if isinstance(layer, nn.LSTM) else start
        y, last = layer(x[:length, k : k + 1], given) if length else (x[:0, :1, :1], start)
        last = last[0] if isinstance(last, tuple) else last
        y = y.expand(-1, -1, HIDDEN)
        rows.append(torch.cat([y, y.new_zeros(TIME - length, 1, HIDDEN)]))
        ends.append(last[0])
    y = torch.cat(rows, 1)
    return {"y": flipped(y, n) if reverse else y, "h": torch.cat(ends)}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n", [MANY, FEW, MANY.roll(2) * 0 + 9], ids=["many", "few", "all"])
@pytest.mark.parametrize("kind", LAYERS)
def test_all_positions_equal_packed_ones(kind, n, reverse):
    layer = LAYERS[kind]().double()
    x = torch.randn(TIME, BATCH, INPUT, dtype=torch.float64)
    x[torch.arange(TIME)[:, None] >= n] = float("nan")  # nothing beyond the end is read
    h = torch.randn(BATCH, HIDDEN, dtype=torch.float64, requires_grad=True)
    x.requires_grad_()
    weights = [layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0]
    wanted = {"h": h, **dict(layer.named_parameters())}
    starts = [h, 0.0] if kind == "lstm" else [h]

    def ours():
        y, last, *_ = torch_layers.recurrent(kind, x, starts, weights, reverse, n[:, None], False)
        return {"y": y, "h": last}

    close(run(ours, wanted), run(lambda: packed(layer, x, n, h, reverse), wanted), 1e-12)


def test_all_positions_are_run_if_most_are_valid(monkeypatch):
    calls = []
    for name in ("_padded", "_ragged"):
        whole = getattr(torch_layers, name)
        monkeypatch.setattr(
            torch_layers, name, lambda *a, n=name, f=whole: calls.append(n) or f(*a)
        )
    layer = nn.LSTM(INPUT, HIDDEN)
    model, x = gn.compile(gn.nn.LSTM.from_torch(layer)), torch.randn(BATCH, TIME, INPUT)
    for n, finals in ((MANY, False), (FEW + (FEW == 0), False), (MANY, True)):
        found = model(x=x, lengths={"time": n}, return_state=finals)
        pack = pack_padded_sequence(x, n, batch_first=True, enforce_sorted=False)
        y, (h, c) = layer(pack)
        wanted = pad_packed_sequence(y, batch_first=True, total_length=TIME)[0]
        torch.testing.assert_close(found[0] if finals else found, wanted)
        if finals:
            torch.testing.assert_close(found[1]["lstm.h"], h[0])
            torch.testing.assert_close(found[1]["lstm.c"], c[0])
    assert calls == ["_padded", "_padded", "_ragged"]
    few = torch.tensor([3, 1, 1, 1, 1])
    model(x=x, lengths={"time": few})
    assert calls[-1] == "_ragged", "7 of 45 positions"


class Ends(nn.Module):
    """The last c of one direction and the first of the other, as an encoder returns them."""

    def __init__(self):
        super().__init__()
        self.lstm = gn.nn.LSTM(INPUT, HIDDEN, bidirectional=True)

    def graph(self, g):
        y, states = self.lstm(g.input("x", (INPUT,), over="time"), with_states=True)
        g.output("y", y)
        g.output("ahead", gn.last(states["c"], over="time"))
        g.output("back", 2 * gn.first(states["c_l0_reverse"], over="time"))


@pytest.mark.parametrize("backend", ["torch", "interpret", "reference"])
def test_a_layer_returns_its_last_c(backend):
    net = Ends()
    theirs = net.lstm.to_torch()
    model = gn.compile(net, backend=backend)
    x = torch.randn(BATCH, TIME, INPUT, requires_grad=True)
    if backend == "torch":
        assert model.explain().count(": torch's LSTM layer") == 2
        ragged = model.explain(lengths=("time",))
        assert "does not return all of lstm.c" in ragged and ": torch's LSTM layer" not in ragged

    def right():
        y, (_, c) = theirs(x)
        return {"y": y, "ahead": c[0], "back": 2 * c[1]}

    wanted = run(right, {"x": x, **dict(theirs.named_parameters())})
    found = run(lambda: model(x=x), {"x": x, **dict(net.named_parameters())})
    close(dict(zip(wanted, found.values())), wanted, 1e-5)
