"""Cells: the mathematics of one step. `Recurrent` stacks a cell in layers and directions.

A cell names its states. Its `forward(x, **states)` returns a dict with the next value of each state
and the output "h", which may be a state itself. The dict may have more entries; `Recurrent` returns
them all if `with_states=True`. Your own cell works in any number of layers:

    class LeakyCell(gn.nn.Cell):
        def __init__(self, input_size, hidden_size, bias=True, keep=0.9):
            super().__init__({"h": hidden_size}, hidden_size)
            self.map, self.keep = nn.Linear(input_size, hidden_size, bias), keep

        def forward(self, x, h):
            return {"h": self.keep * h + (1 - self.keep) * torch.relu(self.map(x))}

    class Leaky(gn.nn.Recurrent):
        cell = LeakyCell

    h = Leaky(28, 64, num_layers=2, bidirectional=True, keep=0.8)(x)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.nn.recurrent.dropout import locked_dropout
from graphnn.nn.standalone import no_sizes
from graphnn.nn.types import State, Value


class Cell(nn.Module):
    """The base class of all cells.

    A cell that sets `input_size` can be compiled alone: it maps `x` (batch, time, input_size) to
    the outputs (batch, time, output_size).

        class Decay(gn.nn.Cell):
            def __init__(self, size):
                super().__init__({"h": size}, size)
                self.input_size = size

            def forward(self, x, h):
                return {"h": 0.9 * h + x}

        y = gn.compile(Decay(3))(x=torch.ones(2, 5, 3))  # (2, 5, 3)

    Parameters
    ----------
    sizes : the states and the width of each, for example {"h": 64, "c": 64}
    output_size : the width of the output "h"
    """

    def __init__(self, sizes: dict[str, int], output_size: int):
        super().__init__()
        self.sizes, self.output_size = sizes, output_size

    def graph(self, g: Any) -> None:
        """Input `x` (input_size,) over time, one loop per state, output `y`."""
        size = getattr(self, "input_size", None)
        if size is None:
            no_sizes(self)
        x = g.input("x", size, "time")
        past = {name: g.state(name, width) for name, width in self.sizes.items()}
        now = self(x, **past)
        for name, before in past.items():
            before.next = now[name]
        g.output("y", now["h"])


class GatedCell(Cell):
    """The base class of cells with linear maps W x + b and U h + b, laid out as in `torch.nn`.

    The parameters are weight_ih (Σ parts, input), weight_hh (Σ parts, past), bias_ih and bias_hh
    (Σ parts,). `parts` are the numbers of rows that are used and normalised together: one part for
    all gates of an LSTM, two parts for the gates and the candidate of a GRU. Each gate has
    `hidden_size` rows.

        cell = gn.nn.GRUCell(3, 4)  # a GatedCell
        cell.weight_ih.shape  # torch.Size([12, 3])

    Parameters
    ----------
    layer_norm : normalise W x and U h separately over each part, then scale (Ba et al. 2016,
        arXiv:1607.06450, supplementary material)
    recurrent_dropout : probability of dropping a unit of h before U, with one mask per sequence
        (Gal & Ghahramani 2016, arXiv:1512.05287)
    orthogonal : initialise each gate's block of U as a (semi-)orthogonal matrix, which preserves
        norms (Saxe et al. 2014; Arjovsky et al. 2016)
    """

    bias_ih: nn.Parameter | None
    bias_hh: nn.Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        parts: Sequence[int],
        sizes: dict[str, int],
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        orthogonal: bool = False,
    ):
        super().__init__(sizes, sizes["h"])
        self.input_size, self.hidden_size, self.parts = input_size, hidden_size, tuple(parts)
        self.recurrent_dropout, self.orthogonal = recurrent_dropout, orthogonal
        rows = sum(parts)
        self.weight_ih = nn.Parameter(torch.empty(rows, input_size))
        self.weight_hh = nn.Parameter(torch.empty(rows, sizes["h"]))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, nn.Parameter(torch.empty(rows)) if bias else None)
        self.norm_ih = _norms(parts) if layer_norm else None
        self.norm_hh = _norms(parts) if layer_norm else None

    def reset_parameters(self) -> None:
        """Initialise uniformly within ±1/√hidden, as `torch.nn` does; U orthogonally if asked."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters(recurse=False):
            nn.init.uniform_(parameter, -bound, bound)
        if self.orthogonal:
            with torch.no_grad():
                for block in self.weight_hh.split(self.hidden_size):
                    nn.init.orthogonal_(block)

    def dropped(self, h: State) -> Value:
        """The operand of U: the state, with the dropout mask of the sequence while training."""
        return locked_dropout(h, self.recurrent_dropout, self.training, h.node.attrs["axis"])

    def from_input(self, x: Value, part: int = 0) -> Value:
        """W x + b, (input,) -> (parts[part],)."""
        return self._map(x, self.weight_ih, self.bias_ih, self.norm_ih, part)

    def from_past(self, h: Value, part: int = 0) -> Value:
        """U h + b, (past,) -> (parts[part],)."""
        return self._map(h, self.weight_hh, self.bias_hh, self.norm_hh, part)

    def _map(self, v: Value, weight: Any, bias: Any, norm: Any, part: int) -> Value:
        y = F.linear(v, self._rows(v, weight, part))
        y = y if norm is None else norm[part](y)
        return y if bias is None else y + self._rows(v, bias, part)

    def _rows(self, v: Value, parameter: nn.Parameter, part: int) -> Any:
        if len(self.parts) == 1:
            return parameter
        # split as a value of the graph: split as a tensor, it would be a constant
        return v.graph.value(parameter).split(self.parts)[part]


def _norms(parts: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.LayerNorm(size, bias=False) for size in parts)
