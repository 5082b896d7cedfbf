"""The gated recurrent unit, with the reset gate before or after the matmul."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.nn.recurrent.cell import GatedCell
from graphnn.nn.recurrent.torch_weights import TorchRecurrent
from graphnn.nn.types import State, Value

GATES, NEW = 0, 1


class GRUCell(GatedCell):
    """The gated recurrent unit. With h' = h(t-1) and the gates in the order of `torch.nn`, r z n:

        r = σ(W_r x + U_r h' + b_r)
        z = σ(W_z x + U_z h' + b_z)
        n = tanh(W_n x + b_n + U_n (r ⊙ h') + c_n)     reset before (Cho et al. 2014, eq. 5-8)
        n = tanh(W_n x + b_n + r ⊙ (U_n h' + c_n))     reset after (`nn.GRU`, cuDNN)
        h = (1 - z) ⊙ n + z ⊙ h'

    Parameters
    ----------
    reset : "before" or "after" the matmul with U_n
    candidate_dropout : probability of dropping a unit of n at a step (Semeniuta et al. 2016,
        arXiv:1603.05118)
    layer_norm, recurrent_dropout, orthogonal : see `GatedCell`

        h = gn.compile(gn.nn.GRUCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset: str = "before",
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        orthogonal: bool = False,
    ):
        if reset not in ("before", "after"):
            raise ValueError(f"reset is 'before' or 'after' the matmul, not {reset!r}")
        super().__init__(
            input_size,
            hidden_size,
            bias,
            parts=[2 * hidden_size, hidden_size],
            sizes={"h": hidden_size},
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            orthogonal=orthogonal,
        )
        self.reset, self.candidate_dropout = reset, candidate_dropout
        self.reset_parameters()

    def forward(self, x: Value, h: State) -> dict[str, Value]:
        """(input,) and the state (hidden,) -> its next value."""
        past = self.dropped(h)
        r, z = (self.from_input(x, GATES) + self.from_past(past, GATES)).chunk(2, -1)
        r, z = torch.sigmoid(r), torch.sigmoid(z)
        if self.reset == "before":
            recalled = self.from_past(r * past, NEW)
        else:
            recalled = r * self.from_past(past, NEW)
        new = torch.tanh(self.from_input(x, NEW) + recalled)
        new = F.dropout(new, self.candidate_dropout, self.training)
        return {"h": (1 - z) * new + z * h}


class GRU(TorchRecurrent):
    """A gated recurrent unit over a sequence; with reset="after" it equals `nn.GRU`.

    It takes the parameters of `Recurrent` and the options of `GRUCell`. Both variants have the same
    parameters, so both load the weights of an `nn.GRU`.

        h = gn.compile(gn.nn.GRU(3, 4, num_layers=2))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = GRUCell
    torch_class = nn.GRU
    fixed = {"reset": "after"}  # noqa: RUF012

    def __init__(self, *args: Any, reset: str = "before", **options: Any):
        super().__init__(*args, reset=reset, **options)
