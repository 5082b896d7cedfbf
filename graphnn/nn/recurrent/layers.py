"""`Recurrent`: layers of one cell, in one or both directions, over an axis."""

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
from graphnn.nn.standalone import alone
from graphnn.nn.types import Value


class Recurrent(nn.Module):
    """A cell over a sequence. A subclass names its cell: `class Mine(Recurrent): cell = MyCell`.

    Compiled alone, `gn.compile(module)(x=…)`, it takes `x` (batch, time, input_size). In a graph it
    is called `h = module(x)` on a value of shape (input_size,): the outputs over x's axis, of shape
    (output_size,), or twice that in both directions, forward first.

    States are named as the cell names them. Those of the first layer forward have that name ("h",
    "c"); to others `torch.nn`'s suffix is added: "c_l1", "c_l0_reverse", "c_l1_reverse".

    Parameters
    ----------
    input_size, hidden_size : widths of the input and of the state
    num_layers : layers, each fed by the outputs of the one below
    bidirectional : run each layer from both ends of each example and join the outputs
    dropout : probability of dropping a number passed from one layer to the next
    bias : whether maps have biases
    zoneout : probability that a unit keeps its former value at a step; a number, or one a state:
        {"h": 0.05, "c": 0.5}
    options : what the cell takes besides
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
        """The names of a layer's cells: l0 and l0_reverse."""
        return [f"l{layer}", f"l{layer}_reverse"][: 1 + self.bidirectional]

    @property
    def state_sizes(self) -> dict[str, int]:
        """The width of every state, by name, in the order of `torch.nn`: layer by layer."""
        names = [name for layer in range(self.num_layers) for name in self._directions(layer)]
        cells = {name: getattr(self, name) for name in names}
        return {_named(s, name): n for name, cell in cells.items() for s, n in cell.sizes.items()}

    def graph(self, g: Any) -> None:
        """Input `x` (input_size,) over time, output `y`."""
        alone(self, g, ("x", self.input_size, "time"))

    def forward(
        self,
        x: Value,
        over: str | None = None,
        init: Mapping[str, Any] | None = None,
        with_states: bool = False,
    ) -> Any:
        """The outputs over an axis; with `with_states`, also every state as a sequence, by name.

        `over` names the axis where x has several; the others are carried along. `init` gives
        initial states by name: numbers, parameters, tensors or values without that axis (zero
        where not given). A final state is `gn.last(states["c"], over=…)`, in reverse
        `gn.first(states["c_l0_reverse"], over=…)`.
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
        """One cell over the axis: declare its states, apply it, close the loop."""
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
    """The state "c" of the cell l0 is "c"; of l1 "c_l1"; of l0_reverse "c_l0_reverse"."""
    return state if cell == "l0" else f"{state}_{cell}"
