"""Recurrent modules equal `nn.LSTM`, `nn.GRU` and `nn.RNN` with the same weights to 1e-10."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphnn as gn
from tests.nn.common import Outputs, OverTime, close, doubles, run

WIDTH, HIDDEN = 5, 6
KINDS = {
    "lstm": (nn.LSTM, gn.nn.LSTM, {}),
    "lstm_projected": (nn.LSTM, gn.nn.LSTM, {"proj_size": 4}),
    "gru": (nn.GRU, gn.nn.GRU, {}),
    "tanh": (nn.RNN, gn.nn.RNN, {}),
    "relu": (nn.RNN, gn.nn.RNN, {"nonlinearity": "relu"}),
}
CASES = {
    "ragged": (4, 6, torch.tensor([6, 1, 4, 3])),
    "batch_of_one": (1, 5, None),
    "length_of_one": (3, 1, None),
}


def run_torch(
    module: nn.RNNBase, x: Tensor, start: dict[str, Tensor], lengths: Tensor | None
) -> Outputs:
    """Runs a torch module. Returns its outputs and final states by the names of graphnn."""
    names = {"h": [n for n in start if n[0] == "h"], "c": [n for n in start if n[0] == "c"]}
    states = [torch.stack([start[n] for n in group]) for group in names.values() if group]
    sequence = x
    if lengths is not None:
        sequence = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, final = module(sequence, tuple(states) if len(states) > 1 else states[0])
    if lengths is not None:
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    finals = final if isinstance(final, tuple) else (final,)
    groups = [g for g in names.values() if g]
    found = {n: v for group, whole in zip(groups, finals) for n, v in zip(group, whole)}
    return {"y": y, **{n: found[n] for n in start}}


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(kind: str, layers: int, bidirectional: bool) -> None:
    torch_class, our_class, options = KINDS[kind]
    torch.manual_seed(0)
    theirs = torch_class(
        WIDTH, HIDDEN, layers, bidirectional=bidirectional, batch_first=True, **options
    ).double()
    net = OverTime(our_class.from_torch(theirs), WIDTH, init=True, final=True)
    model = gn.compile(net)
    for batch, time, lengths in CASES.values():
        x = doubles(batch, time, WIDTH)
        start = {
            name: doubles(batch, size, seed=k)
            for k, (name, size) in enumerate(net.module.state_sizes.items())
        }
        inputs = {"x": x, **start}
        ragged = None if lengths is None else {"time": lengths}
        parameters = dict(zip(theirs.state_dict(), _parameters(net.module, theirs)))
        ours = run(lambda: model(lengths=ragged, **inputs), {**inputs, **parameters})  # noqa: B023
        expected = run(
            lambda: run_torch(theirs, x, start, lengths),  # noqa: B023
            {**inputs, **dict(theirs.named_parameters())},
        )
        close(ours, expected, 1e-10)


def _parameters(module: gn.nn.Recurrent, theirs: nn.RNNBase) -> list[Tensor]:
    parameters = dict(module.named_parameters())
    split = (name.rpartition("_l") for name in theirs.state_dict())
    return [parameters[f"l{cell}.{name}"] for name, _, cell in split]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_equals_torch(kind: str) -> None:
    torch_class, our_class, options = KINDS[kind]
    theirs = torch_class(
        WIDTH, 3, bidirectional=True, batch_first=True, **options | _smaller_projection(options)
    )
    net = OverTime(our_class.from_torch(theirs.double()), WIDTH)
    x, lengths = doubles(3, 4, WIDTH), torch.tensor([4, 1, 2])
    y = gn.compile(net, backend="reference")(x=x, lengths={"time": lengths})["y"]
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True)
    close({"y": y}, {"y": expected}, 1e-10)


def _smaller_projection(options: dict[str, object]) -> dict[str, object]:
    return {"proj_size": 2} if "proj_size" in options else {}


@pytest.mark.parametrize("kind", ["lstm", "gru", "tanh"])
def test_without_bias(kind: str) -> None:
    torch_class, our_class, _ = KINDS[kind]
    theirs = torch_class(WIDTH, HIDDEN, bias=False, batch_first=True).double()
    model = gn.compile(OverTime(our_class.from_torch(theirs), WIDTH))
    x = doubles(2, 4, WIDTH)
    close({"y": model(x=x)["y"]}, {"y": theirs(x)[0]}, 1e-10)
