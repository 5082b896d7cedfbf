"""`Recurrent`: layers of one cell over an axis, in one or both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.nn.axes import sequence_axis
from graphnn.nn.recurrent.cell import Cell
from graphnn.nn.recurrent.dropout import zoneout
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import Value


class Recurrent(nn.Module):
    """A cell over a sequence. A subclass names its cell: `class Mine(Recurrent): cell = MyCell`.

    Compiled alone, `gn.compile(module)(x=…)`, it takes `x` (batch, time, input_size). In a graph,
    call `h = module(x)` on a value of shape (input_size,). The result has shape (output_size,) over
    the axis of x; if bidirectional, twice that width, the forward direction first.

    The states of the first forward layer have the names of the cell ("h", "c"). Others have the
    suffix of `torch.nn`: "c_l1", "c_l0_reverse", "c_l1_reverse".

        class Decay(gn.nn.Cell):
            def __init__(self, input_size, hidden_size, bias=True):
                super().__init__({"h": hidden_size}, hidden_size)
                self.map = nn.Linear(input_size, hidden_size, bias)

            def forward(self, x, h):
                return {"h": 0.9 * h + self.map(x)}

        class DecayLayers(gn.nn.Recurrent):
            cell = Decay

        net = DecayLayers(3, 4, num_layers=2, bidirectional=True)
        y = gn.compile(net)(x=torch.randn(2, 5, 3))  # (2, 5, 8)

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the state
    num_layers : number of layers; each reads the outputs of the layer below
    bidirectional : run each layer in both directions and concatenate the outputs
    dropout : probability of dropping an element between layers
    bias : whether the linear maps have biases
    zoneout : probability that a unit keeps its former value at a step; one number, or one per
        state: {"h": 0.05, "c": 0.5}
    options : further options of the cell
    """

    cell: ClassVar[type[Any]] = Cell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        zoneout: float | Mapping[str, float] = 0.0,
        **options: Any,
    ):
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.num_layers, self.bidirectional, self.dropout = num_layers, bidirectional, dropout
        self.zoneout, self.options = zoneout, options
        for layer in range(num_layers):
            for name in self._directions(layer):
                cell = self.cell(input_size, hidden_size, bias, **options)
                self.add_module(name, cell)
            input_size = cell.output_size * (1 + bidirectional)
        self.output_size = input_size

    def _directions(self, layer: int) -> list[str]:
        """The names of the cells of a layer: l0 and l0_reverse."""
        return [f"l{layer}", f"l{layer}_reverse"][: 1 + self.bidirectional]

    @property
    def state_sizes(self) -> dict[str, int]:
        """The width of each state by name, layer by layer as in `torch.nn`."""
        names = [name for layer in range(self.num_layers) for name in self._directions(layer)]
        cells = {name: getattr(self, name) for name in names}
        return {_named(s, name): n for name, cell in cells.items() for s, n in cell.sizes.items()}

    def graph(self, g: Any) -> None:
        """Input `x` (input_size,) over time, output `y`."""
        standalone_graph(self, g, ("x", self.input_size, "time"))

    def forward(
        self,
        x: Value,
        over: str | None = None,
        init: Mapping[str, Any] | None = None,
        with_states: bool = False,
    ) -> Any:
        """The outputs over an axis; if `with_states`, also a dict with the sequence of each state.

        `over` names the axis if x has several; the states vary over the other axes. `init` gives
        initial states by name: numbers, parameters, tensors, or values that do not vary over the
        axis; the default is zero. The final state is `gn.last(states["c"], over=…)`; of the reverse
        direction it is `gn.first(states["c_l0_reverse"], over=…)`.
        """
        over, init = sequence_axis(x, over), init or {}
        self._check(init)
        states: dict[str, Value] = {}
        for layer in range(self.num_layers):
            x = F.dropout(x, self.dropout if layer else 0.0, self.training)
            runs = {name: self._run(x, name, over, init) for name in self._directions(layer)}
            x = torch.cat([run["h"] for run in runs.values()], -1)
            states |= {_named(s, name): v for name, run in runs.items() for s, v in run.items()}
        return (x, states) if with_states else x

    def _run(self, x: Value, name: str, over: str, init: Mapping[str, Any]) -> dict[str, Value]:
        """Run one cell over the axis: declare its states, apply it, close the loop."""
        cell, g, delay = getattr(self, name), x.graph, -1 if name.endswith("reverse") else 1
        starts = {state: init.get(_named(state, name)) for state in cell.sizes}
        axes = {axis for v in (x, *starts.values()) for axis in getattr(v, "axes", ())}
        past = {}
        for state, size in cell.sizes.items():
            unique = g.unique(f"{g.name_of(self)}.{_named(state, name)}")
            along = g.ir.layout(axes - {over})
            past[state] = g.state(unique, size, over, along, starts[state], delay)
        now: dict[str, Value] = cell(x, **past)
        for state, before in past.items():
            now[state] = zoneout(before, now[state], self._zoneout(state), self.training)
            before.next = now[state]
        return now

    def _zoneout(self, state: str) -> float:
        rates = self.zoneout
        return rates.get(state, 0.0) if isinstance(rates, Mapping) else rates

    def _check(self, init: Mapping[str, Any]) -> None:
        if unknown := sorted(set(init) - set(self.state_sizes)):
            raise UnsupportedError(
                f"{type(self).__name__} has no state {unknown[0]!r} to start",
                site=user_site(),
                got=f"init for {unknown}",
                wanted=f"states among {list(self.state_sizes)}",
                fix="'h' is the first layer's, 'h_l1' the second's, 'h_l0_reverse' runs backwards",
            )

    def extra_repr(self) -> str:
        shown: dict[str, Any] = {
            "num_layers": self.num_layers if self.num_layers > 1 else None,
            "bidirectional": self.bidirectional,
            "dropout": self.dropout,
            "zoneout": self.zoneout,
            **self.options,
        }
        rest = "".join(f", {k}={v!r}" for k, v in shown.items() if v)
        return f"{self.input_size}, {self.hidden_size}{rest}"


def _named(state: str, cell: str) -> str:
    """The public name of a state: "c" for cell l0, "c_l1" for l1, "c_l0_reverse" for l0_reverse."""
    return state if cell == "l0" else f"{state}_{cell}"
