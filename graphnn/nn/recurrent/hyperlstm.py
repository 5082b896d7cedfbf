"""An LSTM whose weights are modified by a smaller LSTM at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphnn.nn.recurrent.layers import Recurrent
from graphnn.nn.recurrent.lstm import LSTMCell
from graphnn.nn.types import State, Value


class PerGate(nn.Module):
    """d^y = D^y (E^y s + e^y) for each gate y: (small,) -> (gates·hidden,)."""

    def __init__(self, gates: int, small: int, embedding: int, hidden: int, bias: bool):
        super().__init__()
        self.embed = nn.Linear(small, gates * embedding, bias)
        self.weight = nn.Parameter(torch.empty(gates, hidden, embedding))

    def start(self, weight: float, embed: float, bias: float) -> None:
        """Initialise D and e as constants, and E as normal with standard deviation `embed`."""
        nn.init.constant_(self.weight, weight)
        nn.init.normal_(self.embed.weight, std=embed)
        if self.embed.bias is not None:
            nn.init.constant_(self.embed.bias, bias)

    def forward(self, s: Value) -> Value:
        z = self.embed(s).reshape(self.weight.shape[0], -1)
        return torch.einsum("gk,gnk->gn", z, self.weight).reshape(-1)


class HyperLSTMCell(LSTMCell):
    """An LSTM cell whose rows are scaled, and bias shifted, by the state of a smaller LSTM.

        ŝ = LSTM([h', x])
        gates = d_h(ŝ) ⊙ U h' + d_x(ŝ) ⊙ W x + b(ŝ)

    The gates are then used as in `LSTMCell`. Ha et al. 2016, arXiv:1609.09106, appendix A.2.2. As
    in the authors' code, ŝ is the state of the small LSTM after this step, and scales start at 0.1.

    Parameters
    ----------
    hyper_size : width of the small LSTM
    embedding_size : width of the embedding z^y between ŝ and the scales of each gate
    options : those of `LSTMCell` (layer_norm normalises U h' and W x before they are scaled)

        h = gn.compile(gn.nn.HyperLSTMCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        hyper_size: int = 32,
        embedding_size: int = 8,
        **options: Any,
    ):
        super().__init__(input_size, hidden_size, False, **options)
        self.small = LSTMCell(input_size + self.sizes["h"], hyper_size, bias)
        self.sizes |= {"hyper_h": hyper_size, "hyper_c": hyper_size}
        gates = sum(self.parts) // hidden_size
        shape = (gates, hyper_size, embedding_size, hidden_size)
        self.scale_h, self.scale_x = PerGate(*shape, bias=True), PerGate(*shape, bias=True)
        self.shift = PerGate(*shape, bias=False)
        self.offset = nn.Parameter(torch.zeros(sum(self.parts))) if bias else None
        for scale in (self.scale_h, self.scale_x):
            scale.start(0.1 / embedding_size, embed=0.0, bias=1.0)
        self.shift.start(0.0, embed=0.01, bias=0.0)
        if self.offset is not None:
            self.start_forget(self.offset)

    def forward(  # type: ignore[override]
        self, x: Value, h: State, c: State, hyper_h: State, hyper_c: State
    ) -> dict[str, Value]:
        """(input,) and the states (output,), (hidden,), (small,), (small,) -> their next values."""
        small = self.small(torch.cat([h, x], -1), hyper_h, hyper_c)
        s = small["h"]
        scaled = self.scale_h(s) * self.from_past(self.past(x, h))
        gates = scaled + self.scale_x(s) * self.from_input(x) + self.shift(s)
        gates = gates if self.offset is None else gates + self.offset
        return {**self.update(gates, c), "hyper_h": s, "hyper_c": small["c"]}


class HyperLSTM(Recurrent):
    """A hyper LSTM over a sequence.

    It takes the parameters of `Recurrent` and the options of `HyperLSTMCell`.

        h = gn.compile(gn.nn.HyperLSTM(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = HyperLSTMCell
