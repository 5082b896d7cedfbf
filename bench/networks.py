"""The timed networks: each as a graph, and as the code a user would run instead.

`peer()` is the contender with the same weights: torch's own layer, or the eager loop over time.
Inputs are (time, batch, feature) for peers and (batch, time, feature) for graphnn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import graphnn as gn

Peer = Callable[[Tensor], Tensor]


class Layer(nn.Module):
    """One of torch's recurrent layers, written out as a graph from its own weights."""

    def __init__(self, kind: type[nn.RNNBase], size: int):
        super().__init__()
        layer = kind(size, size)
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)
        # not registered as a submodule: torch.compile refuses modules that contain an nn.RNN
        self.__dict__["layer"] = layer

    def linear(self, which: str, v: gn.Value) -> gn.Value:
        """The layer's linear map of the input (`ih`) or of the state (`hh`)."""
        weight, bias = (getattr(self, f"{kind}_{which}_l0") for kind in ("weight", "bias"))
        return torch.nn.functional.linear(v, weight, bias)

    def peer(self) -> Peer:
        """torch's own layer."""
        return lambda x: self.layer(x)[0]

    def open(self, g: gn.Graph) -> tuple[gn.Value, gn.State]:
        """The input and the state h."""
        size = self.layer.hidden_size
        return g.input("x", (size,), over="time"), g.state("h", (size,))


class RNN(Layer):
    """h = tanh(W x + b + U h' + c)."""

    def __init__(self, size: int):
        super().__init__(nn.RNN, size)

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        x, h = self.open(g)
        h.next = torch.tanh(self.linear("ih", x) + self.linear("hh", h))
        g.output("y", h.next)


class LSTM(Layer):
    """The LSTM of `nn.LSTM`."""

    def __init__(self, size: int):
        super().__init__(nn.LSTM, size)

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        x, h = self.open(g)
        c = g.state("c", tuple(h.shape))
        i, f, u, o = (self.linear("ih", x) + self.linear("hh", h)).chunk(4)
        c.next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(u)
        h.next = torch.sigmoid(o) * torch.tanh(c.next)
        g.output("y", h.next)


class GRU(Layer):
    """The GRU of `nn.GRU`, with the reset gate after the matmul."""

    def __init__(self, size: int):
        super().__init__(nn.GRU, size)

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        x, h = self.open(g)
        xr, xz, xn = self.linear("ih", x).chunk(3)
        hr, hz, hn = self.linear("hh", h).chunk(3)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        n = torch.tanh(xn + r * hn)
        h.next = (1 - z) * n + z * h
        g.output("y", h.next)


class Cell(nn.Module):
    """A user's own cell: one function of input and states, for a graph or an eager loop."""

    states: tuple[str, ...] = ("h",)
    # the input width divided by `size`
    inputs = 1

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """The next states; the first is the output. It works on tensors and on values."""
        raise AssertionError

    def graph(self, g: gn.Graph) -> None:
        """Declare the loop around the cell."""
        x = g.input("x", (self.inputs * self.size,), over="time")
        states = [g.state(name, (self.size,)) for name in self.states]
        for state, value in zip(states, self.cell(x, *states)):
            state.next = value
        g.output("y", states[0].next)

    def peer(self) -> Peer:
        """The eager loop."""

        def run(x: Tensor) -> Tensor:
            states = tuple(x.new_zeros(x.shape[1], self.size) for _ in self.states)
            outputs = []
            for x_t in x:
                states = self.cell(x_t, *states)
                outputs.append(states[0])
            return torch.stack(outputs)

        return run


class ResetBeforeGRU(Cell):
    """The GRU of Cho et al. 2014: the reset gate acts before the matmul."""

    def __init__(self, size: int):
        super().__init__(size)
        self.gates = nn.Linear(2 * size, 2 * size)
        self.candidate = nn.Linear(2 * size, size)

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        (h,) = states
        r, z = torch.sigmoid(self.gates(torch.cat([x, h], -1))).chunk(2, -1)
        n = torch.tanh(self.candidate(torch.cat([x, r * h], -1)))
        return (z * h + (1 - z) * n,)


class GateByGate(Cell):
    """The same GRU as in its paper: per gate one linear map of the input and one of the state.

    The eager loop runs this as written. The planner fuses the maps and moves half of them out of
    the loop.
    """

    def __init__(self, size: int):
        super().__init__(size)
        self.w = nn.ModuleList(nn.Linear(size, size) for _ in range(3))
        self.u = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(3))

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        (h,) = states
        z = torch.sigmoid(self.w[0](x) + self.u[0](h))
        r = torch.sigmoid(self.w[1](x) + self.u[1](h))
        n = torch.tanh(self.w[2](x) + self.u[2](r * h))
        return (z * h + (1 - z) * n,)


class Peepholes(Cell):
    """An LSTM with peepholes (Gers and Schmidhuber 2000): one linear map of [x, h] per gate."""

    states = ("h", "c")

    def __init__(self, size: int):
        super().__init__(size)
        self.gates = nn.ModuleList(nn.Linear(2 * size, size) for _ in range(4))
        self.peep = nn.ParameterList(torch.randn(size) * 0.1 for _ in range(3))

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        h, c = states
        f, i, o, u = (gate(torch.cat([x, h], -1)) for gate in self.gates)
        kept = torch.sigmoid(f + self.peep[0] * c) * c
        new = kept + torch.sigmoid(i + self.peep[1] * c) * torch.tanh(u)
        return torch.sigmoid(o + self.peep[2] * new) * torch.tanh(new), new


class Independent(Cell):
    """A network of independent neurons, each with one recurrent weight (Li et al. 2018, eq. 2)."""

    def __init__(self, size: int):
        super().__init__(size)
        self.w = nn.Linear(size, size)
        self.u = nn.Parameter(torch.rand(size))

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        (h,) = states
        return (torch.relu(self.w(x) + self.u * h),)


class MultiplicativeIntegration(Cell):
    """An LSTM whose gates see a * Wx * Uh + b * Uh + c * Wx + d (Wu et al. 2016, eq. 4)."""

    states = ("h", "c")

    def __init__(self, size: int):
        super().__init__(size)
        self.w = nn.Linear(size, 4 * size, bias=False)
        self.u = nn.Linear(size, 4 * size, bias=False)
        self.a, self.b, self.c = (nn.Parameter(torch.ones(4 * size)) for _ in range(3))
        self.d = nn.Parameter(torch.zeros(4 * size))

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        h, c = states
        wx, uh = self.w(x), self.u(h)
        i, f, o, z = (self.a * wx * uh + self.b * uh + self.c * wx + self.d).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(z)
        return torch.sigmoid(o) * torch.tanh(c), c


class TwoSpeeds(Cell):
    """A fast and a slow state that gate each other; an unpublished cell."""

    states = ("fast", "slow")

    def __init__(self, size: int):
        super().__init__(size)
        self.drive = nn.Linear(3 * size, size)
        self.open = nn.Linear(2 * size, size)
        self.write = nn.Linear(size, size)

    def cell(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        fast, slow = states
        fast = torch.tanh(self.drive(torch.cat([x, fast, slow], -1)))
        gate = torch.sigmoid(self.open(torch.cat([x, fast], -1)) - 1)
        slow = slow + gate * (self.write(fast) - slow)
        return fast * torch.sigmoid(slow), slow


class Deep(nn.Module):
    """A bidirectional layer-norm LSTM of three layers: six loops. Only its planning is timed."""

    def __init__(self, size: int):
        super().__init__()
        self.lstm = gn.nn.LSTM(size, size, num_layers=3, bidirectional=True, layer_norm=True)

    def graph(self, g: gn.Graph) -> None:
        """Declare the graph."""
        g.output("y", self.lstm(g.input("x", (self.lstm.input_size,), over="time")))


NETWORKS: dict[str, type[Layer] | type[Cell]] = {
    "LSTM": LSTM,
    "GRU": GRU,
    "RNN": RNN,
    "reset-before GRU": ResetBeforeGRU,
    "the same, gate by gate": GateByGate,
    "peepholes, gate by gate": Peepholes,
    "independent neurons": Independent,
    "multiplicative integration": MultiplicativeIntegration,
    "two speeds": TwoSpeeds,
}
