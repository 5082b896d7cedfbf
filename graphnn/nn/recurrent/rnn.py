"""The Elman network: h(t) = tanh(W x(t) + U h(t-1) + b)."""

from __future__ import annotations

import torch
from torch import nn

from graphnn.nn.recurrent.cell import GatedCell
from graphnn.nn.recurrent.torch_weights import TorchRecurrent
from graphnn.nn.types import State, Value


class RNNCell(GatedCell):
    """h = tanh(W x + U h' + b), or relu instead of tanh (Elman 1990); h' is h(t-1).

    Parameters
    ----------
    nonlinearity : "tanh" or "relu"
    layer_norm, recurrent_dropout, orthogonal : see `GatedCell`

        h = gn.compile(gn.nn.RNNCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        nonlinearity: str = "tanh",
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        orthogonal: bool = False,
    ):
        super().__init__(
            input_size,
            hidden_size,
            bias,
            parts=[hidden_size],
            sizes={"h": hidden_size},
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            orthogonal=orthogonal,
        )
        self.activation = {"tanh": torch.tanh, "relu": torch.relu}[nonlinearity]
        self.reset_parameters()

    def past(self, x: Value, h: State) -> Value:
        """The operand of U: (past,)."""
        return self.dropped(h)

    def forward(self, x: Value, h: State) -> dict[str, Value]:
        """(input,) and the state (hidden,) -> its next value."""
        return {"h": self.activation(self.from_input(x) + self.from_past(self.past(x, h)))}


class RNN(TorchRecurrent):
    """An Elman network over a sequence; it equals `nn.RNN`.

    It takes the parameters of `Recurrent` and the options of `RNNCell`.

        h = gn.compile(gn.nn.RNN(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = RNNCell
    torch_class = nn.RNN
    shared = ("nonlinearity",)
