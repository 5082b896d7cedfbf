"""The networks of the first contact, and the strategies of their loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import graphnn as gn
from graphnn.tools.resources import Decoding, Layer

# passes that are skipped, so that loops have this strategy
STRATEGIES: dict[str, tuple[str, ...]] = {
    "persistent": (),
    "cooperative": ("resident",),
    "stepwise": ("resident", "cooperative"),
}


@dataclass(frozen=True)
class Network:
    """How a network is made. `loops` tells whether its loops can have each strategy."""

    make: Callable[[], nn.Module]
    loops: bool = True


NETWORKS: dict[str, Network] = {
    "LSTM 64": Network(lambda: Layer(gn.nn.LSTM(64, 64), 64)),
    "LSTM 128": Network(lambda: Layer(gn.nn.LSTM(128, 128), 128)),
    "LSTM 160": Network(lambda: Layer(gn.nn.LSTM(160, 160), 160)),
    "LSTM 256": Network(lambda: Layer(gn.nn.LSTM(256, 256), 256)),
    "LSTM 512": Network(lambda: Layer(gn.nn.LSTM(512, 512), 512)),
    "LSTM 1024": Network(lambda: Layer(gn.nn.LSTM(1024, 1024), 1024)),
    "GRU 160, reset before": Network(lambda: Layer(gn.nn.GRU(160, 160, reset="before"), 160)),
    "LSTM 64, layer norm": Network(lambda: Layer(gn.nn.LSTM(64, 64, layer_norm=True), 64)),
    "RNN 320": Network(lambda: Layer(gn.nn.RNN(320, 320), 320)),
    "attention decoder 64": Network(lambda: Decoding(64)),
    "attention decoder 512": Network(lambda: Decoding(512), loops=False),
    "NTM": Network(lambda: Layer(gn.nn.NTM(8, 100, 128, 20), 8), loops=False),
    "MinGRU": Network(lambda: Layer(gn.nn.MinGRU(64, 64), 64), loops=False),
}


def made(name: str) -> nn.Module:
    """Return a network with fixed weights."""
    torch.manual_seed(0)
    return NETWORKS[name].make()
