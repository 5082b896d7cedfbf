"""Cells with a linear recurrence a(t) ⊙ z + b(t), which the planner can run as a parallel scan."""

from __future__ import annotations

import torch
from torch import nn

from graphnn.nn.recurrent.cell import Cell
from graphnn.nn.recurrent.layers import Recurrent
from graphnn.nn.types import State, Value


class MinGRUCell(Cell):
    """z = σ(A x + a), h = (1 - z) ⊙ h' + z ⊙ (B x + b).

    Feng et al. 2024, "Were RNNs all we needed?", arXiv:2410.01201, section 3.1.

        h = gn.compile(gn.nn.MinGRUCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__({"h": hidden_size}, hidden_size)
        self.input_size = input_size
        self.gate = nn.Linear(input_size, hidden_size, bias)
        self.candidate = nn.Linear(input_size, hidden_size, bias)

    def forward(self, x: Value, h: State) -> dict[str, Value]:
        """(input,) and the state (hidden,) -> its next value."""
        z = torch.sigmoid(self.gate(x))
        return {"h": (1 - z) * h + z * self.candidate(x)}


class SRUCell(Cell):
    """The simple recurrent unit. Its only state is c, which is elementwise; h is not fed back.

        f = σ(W_f x + v_f ⊙ c' + b_f)
        c = f ⊙ c' + (1 - f) ⊙ W x
        r = σ(W_r x + v_r ⊙ c' + b_r)
        h = r ⊙ c + (1 - r) ⊙ α S x

    S is the identity if input and state have the same width. Lei et al. 2018, "Simple recurrent
    units for highly parallelizable recurrence", arXiv:1709.02755, eq. 1-4. Without `peepholes` (v =
    0, as in its first version) the state enters linearly and the loop is a scan.

    Parameters
    ----------
    peepholes : whether the gates depend on c'
    alpha : α, which preserves the variance of x through layers (section 3.2)

        h = gn.compile(gn.nn.SRUCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        peepholes: bool = False,
        alpha: float = 1.0,
    ):
        super().__init__({"c": hidden_size}, hidden_size)
        self.input_size, self.alpha = input_size, alpha
        self.forget = nn.Linear(input_size, hidden_size, bias)
        self.highway = nn.Linear(input_size, hidden_size, bias)
        self.candidate = nn.Linear(input_size, hidden_size, bias=False)
        same = input_size == hidden_size
        self.skip = nn.Identity() if same else nn.Linear(input_size, hidden_size, bias=False)
        for name in ("weight_cf", "weight_cr"):
            start = nn.Parameter(torch.zeros(hidden_size)) if peepholes else None
            self.register_parameter(name, start)

    def forward(self, x: Value, c: State) -> dict[str, Value]:
        """(input,) and the state c (hidden,) -> c and the output h."""
        f, r = self.forget(x), self.highway(x)
        if self.weight_cf is not None:
            f, r = f + self.weight_cf * c, r + self.weight_cr * c
        f, r = torch.sigmoid(f), torch.sigmoid(r)
        after = f * c + (1 - f) * self.candidate(x)
        return {"c": after, "h": r * after + (1 - r) * (self.alpha * self.skip(x))}


class MinGRU(Recurrent):
    """A minimal GRU over a sequence.

    It takes the parameters of `Recurrent`.

        h = gn.compile(gn.nn.MinGRU(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = MinGRUCell


class SRU(Recurrent):
    """A simple recurrent unit over a sequence.

    It takes the parameters of `Recurrent` and the options of `SRUCell`.

        h = gn.compile(gn.nn.SRU(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = SRUCell
