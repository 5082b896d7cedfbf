"""Each library module compiled without a surrounding graph, compared with torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.errors import GraphError
from graphnn.tools.example_inputs import random_inputs
from tests.nn.common import close, doubles, randomised, run

N = gn.nn
# name -> (module, shapes of its inputs: 2 examples, 3 positions, 5 source positions)
STANDALONE = {
    "RNN": (lambda: N.RNN(3, 4), {"x": (2, 3, 3)}),
    "LSTM": (lambda: N.LSTM(3, 4, num_layers=2, bidirectional=True), {"x": (2, 3, 3)}),
    "GRU": (lambda: N.GRU(3, 4), {"x": (2, 3, 3)}),
    "HyperLSTM": (lambda: N.HyperLSTM(3, 4, hyper_size=2, embedding_size=2), {"x": (2, 3, 3)}),
    "MultiplicativeRNN": (lambda: N.MultiplicativeRNN(3, 4), {"x": (2, 3, 3)}),
    "MultiplicativeLSTM": (lambda: N.MultiplicativeLSTM(3, 4), {"x": (2, 3, 3)}),
    "MinGRU": (lambda: N.MinGRU(3, 4), {"x": (2, 3, 3)}),
    "SRU": (lambda: N.SRU(3, 4), {"x": (2, 3, 3)}),
    "RNNCell": (lambda: N.RNNCell(3, 4), {"x": (2, 3, 3)}),
    "LSTMCell": (lambda: N.LSTMCell(3, 4), {"x": (2, 3, 3)}),
    "GRUCell": (lambda: N.GRUCell(3, 4), {"x": (2, 3, 3)}),
    "HyperLSTMCell": (lambda: N.HyperLSTMCell(3, 4, hyper_size=2), {"x": (2, 3, 3)}),
    "MultiplicativeRNNCell": (lambda: N.MultiplicativeRNNCell(3, 4), {"x": (2, 3, 3)}),
    "MultiplicativeLSTMCell": (lambda: N.MultiplicativeLSTMCell(3, 4), {"x": (2, 3, 3)}),
    "MinGRUCell": (lambda: N.MinGRUCell(3, 4), {"x": (2, 3, 3)}),
    "SRUCell": (lambda: N.SRUCell(3, 4), {"x": (2, 3, 3)}),
    "TemporalConv": (lambda: N.TemporalConv(3, 4, 2), {"x": (2, 3, 3)}),
    "NTM": (lambda: N.NTM(3, 4, slots=3, width=2), {"x": (2, 3, 3)}),
    "Hyper": (lambda: N.Hyper(nn.Linear(3, 4), 2), {"x": (2, 3, 3), "z": (2, 3, 2)}),
    "Multiplicative": (lambda: N.Multiplicative(3, 2, 4), {"x": (2, 3, 3), "z": (2, 3, 2)}),
    "SinusoidalPositions": (lambda: N.SinusoidalPositions(4), {"x": (2, 3, 4)}),
    "LearnedPositions": (lambda: N.LearnedPositions(6, 4), {"x": (2, 3, 4)}),
    "RotaryPositions": (lambda: N.RotaryPositions(4), {"x": (2, 3, 4)}),
    "MultiHeadAttention": (lambda: N.MultiHeadAttention(4, 2), {"x": (2, 3, 4)}),
    "AdditiveAttention": (
        lambda: N.AdditiveAttention(3, 4, 2),
        {"query": (2, 3, 3), "keys": (2, 5, 4)},
    ),
    "LocationAttention": (
        lambda: N.LocationAttention(3, 4, 2),
        {"query": (2, 3, 3), "keys": (2, 5, 4)},
    ),
    "TransformerBlock": (
        lambda: N.TransformerBlock(4, 2, cross=True),
        {"x": (2, 3, 4), "memory": (2, 5, 4)},
    ),
    "AttentionDecoder": (
        lambda: N.AttentionDecoder(3, 4, 2),
        {"x": (2, 3, 3), "source": (2, 5, 2)},
    ),
    "AssociativeMemory": (
        lambda: N.AssociativeMemory(3, 2, 4, learned=False),
        {"address": (2, 3, 2), "key": (2, 3, 2), "value": (2, 3, 4)},
    ),
    "KeyValueMemory": (
        lambda: N.KeyValueMemory(3),
        {"question": (2, 3), "keys": (2, 5, 3), "values": (2, 5, 3)},
    ),
    "MemoryNetwork": (lambda: N.MemoryNetwork(9, 4), {"story": (2, 3, 5), "question": (2, 4)}),
    "Seq2Seq": (lambda: N.Seq2Seq(9, 8, 3, 4), {"source": (2, 5), "target": (2, 3)}),
}
# modules that cannot be compiled, because their inputs may have any size
UNSIZED = {
    "LockedDropout": N.LockedDropout,
    "RelativePositions": lambda: N.RelativePositions(2),
    "Cell": lambda: N.Cell({"h": 3}, 3),
    # base classes
    "GatedCell": None,
    "Recurrent": None,
}


def test_the_tables_list_every_module_of_the_library():
    public = {n for n in N.__all__ if isinstance(getattr(N, n), type)}
    absent, gone = public - {*STANDALONE, *UNSIZED}, {*STANDALONE, *UNSIZED} - public
    assert not absent, f"add {sorted(absent)} to STANDALONE in tests/nn/test_standalone.py"
    assert not gone, (
        f"remove {sorted(gone)} from STANDALONE or UNSIZED: graphnn.nn has no such name"
    )


@pytest.mark.parametrize("name", STANDALONE)
def test_a_standalone_module_infers_its_inputs(name):
    make, shapes = STANDALONE[name]
    torch.manual_seed(0)
    net = randomised(make()).eval()
    model = gn.compile(net)
    dtypes = {n.attrs["key"]: n.dtype for n in model.ir if n.op == "input"}
    inputs = {
        k: doubles(*s).detach().abs().to(dtypes[k]).requires_grad_(dtypes[k].is_floating_point)
        for k, s in shapes.items()
    }
    parameters = dict(net.named_parameters())
    variables = {**parameters, **{k: v for k, v in inputs.items() if v.requires_grad}}
    reference = gn.compile(net, backend="reference")
    # a module without parameters computes in float32
    tolerance = 1e-12 if parameters else 1e-5
    close(*(run(lambda m=m: m(**inputs), variables) for m in (model, reference)), tolerance)
    assert set(random_inputs(model, {})) == set(inputs)
    assert model.draw().scene.boxes


def test_a_standalone_module_equals_torch():
    x = doubles(2, 5, 4)
    pairs = (
        (nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True), N.LSTM),
        (nn.GRU(4, 3, batch_first=True), N.GRU),
        (nn.RNN(4, 3, batch_first=True), N.RNN),
        (nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), N.TransformerBlock),
    )
    for module, ours in pairs:
        module.double()
        net = ours.from_torch(module)
        output = module(x)
        expected = run(lambda y=output: y if isinstance(y, torch.Tensor) else y[0], {"x": x})
        close(run(lambda n=net: gn.compile(n)(x=x), {"x": x}), expected, 1e-12)


@pytest.mark.parametrize("name", [n for n, make in UNSIZED.items() if make])
def test_a_module_without_sizes_is_an_error(name):
    with pytest.raises(GraphError, match="does not know the sizes"):
        gn.compile(UNSIZED[name]())
