"""More timed cells: extensions of the LSTM, and a recurrence that is a scan.

`loop(net)` is the eager loop over time of any timed network, including torch's layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphnn.bench.networks import NETWORKS, Cell, Layer, Peer

STEPS = {"LSTM": torch.lstm_cell, "GRU": torch.gru_cell, "RNN": torch.rnn_tanh_cell}


class Gated(Cell):
    """An LSTM; subclasses change a part of it."""

    states = ("h", "c")

    def __init__(self, size: int):
        super().__init__(size)
        self.w = nn.Linear(size, 4 * size)
        self.u = nn.Linear(size, 4 * size, bias=False)

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        h, c = states
        i, f, z, o = (self.w(x) + self.u(h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        return torch.sigmoid(o) * torch.tanh(c), c


class LayerNorm(Gated):
    """The LSTM with layer normalization of Ba et al. 2016: of both maps and of c."""

    def __init__(self, size: int):
        super().__init__(size)
        self.of_w, self.of_u = nn.LayerNorm(4 * size), nn.LayerNorm(4 * size)
        self.of_c = nn.LayerNorm(size)

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        h, c = states
        i, f, z, o = (self.of_w(self.w(x)) + self.of_u(self.u(h))).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        return torch.sigmoid(o) * torch.tanh(self.of_c(c)), c


class Zoneout(Gated):
    """Zoneout as in training: a unit keeps its former value with probability 0.1.

    The second half of the input holds the random numbers, so that all contenders use the same.
    """

    inputs = 2

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        x, draw = x.chunk(2, -1)
        kept = draw > 1.28
        new = super().cell(x, *states)
        return tuple(torch.where(kept, a, b) for a, b in zip(states, new))


class Peepholes(Gated):
    """An LSTM whose gates read c (Gers and Schmidhuber 2000)."""

    def __init__(self, size: int):
        super().__init__(size)
        self.to_i, self.to_f, self.to_o = (nn.Parameter(torch.randn(size)) for _ in range(3))

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        h, c = states
        i, f, z, o = (self.w(x) + self.u(h)).chunk(4, -1)
        new = torch.sigmoid(f + self.to_f * c) * c + torch.sigmoid(i + self.to_i * c) * torch.tanh(
            z
        )
        return torch.sigmoid(o + self.to_o * new) * torch.tanh(new), new


class MinGRU(Cell):
    """h = (1 - z) h' + z (B x + b), z = s(A x + a): a scan (Feng et al. 2024)."""

    def __init__(self, size: int):
        super().__init__(size)
        self.gate, self.candidate = nn.Linear(size, size), nn.Linear(size, size)

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        (h,) = states
        z = torch.sigmoid(self.gate(x))
        return ((1 - z) * h + z * self.candidate(x),)


ALL: dict[str, type[Layer] | type[Cell]] = {
    **NETWORKS,
    "layer-norm LSTM": LayerNorm,
    "zoneout LSTM": Zoneout,
    "peephole LSTM": Peepholes,
    "MinGRU": MinGRU,
}


def loop(net: Layer | Cell) -> Peer:
    """The eager loop over a cell, or over torch's own step function for one of its layers."""
    if isinstance(net, Cell):
        return net.peer()
    step, weights = STEPS[type(net).__name__], [net.get_parameter(f"{x}_l0") for x in LAYER]

    def run(x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[1], weights[1].shape[1])
        outputs = []
        for x_t in x:
            if step is torch.lstm_cell:
                h, c = step(x_t, (h, c), *weights)
            else:
                h = step(x_t, h, *weights)
            outputs.append(h)
        return torch.stack(outputs)

    return run


LAYER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
