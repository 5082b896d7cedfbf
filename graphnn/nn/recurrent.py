"""`Recurrent`: layers of one cell, in one or both directions, over an axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.errors import UnsupportedError
from graphnn.ir import BATCH
from graphnn.nn.axes import sequence_axis
from graphnn.nn.cell import Cell
from graphnn.nn.noise import zoneout
from graphnn.sites import user_site
from graphnn.value import Value


class Recurrent(nn.Module):
    """A cell over a sequence. A subclass names its cell: `class Mine(Recurrent): cell = MyCell`.

    Called `h = module(x)` on a value of shape (input_size,): the outputs over x's axis, of shape
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
        over, init = sequence_axis(x, over), dict(init or {})
        states: dict[str, Value] = {}
        for layer in range(self.num_layers):
            if layer:
                x = F.dropout(x, self.dropout, self.training)
            runs = [self._run(x, name, over, init) for name in self._directions(layer)]
            x = torch.cat([run[_named("h", name)] for name, run in runs], -1)
            for _, run in runs:
                states |= run
        self._check(init, states)
        return (x, states) if with_states else x

    def _run(
        self, x: Value, name: str, over: str, init: Mapping[str, Any]
    ) -> tuple[str, dict[str, Value]]:
        """One cell over the axis: its states are declared, the cell is applied, the loop closed."""
        cell, g, delay = getattr(self, name), x.graph, -1 if name.endswith("reverse") else 1
        starts = {state: init.get(_named(state, name)) for state in cell.sizes}
        axes = {a for v in (x, *starts.values()) if isinstance(v, Value) for a in v.axes}
        before = {
            state: g.state(
                g.unique(f"{g.name_of(self)}.{_named(state, name)}"),
                (size,), over, g.ir.layout(axes - {over, BATCH}), starts[state], delay,
            )
            for state, size in cell.sizes.items()
        }  # fmt: skip
        after = cell(x, **before)
        for state, past in before.items():
            after[state] = zoneout(past, after[state], self._zoneout(state), self.training)
            past.next = after[state]
        return name, {_named(state, name): value for state, value in after.items()}

    def _zoneout(self, state: str) -> float:
        rates = self.zoneout
        return rates.get(state, 0.0) if isinstance(rates, Mapping) else rates

    def _check(self, init: Mapping[str, Any], states: Mapping[str, Value]) -> None:
        if unknown := sorted(set(init) - set(states)):
            raise UnsupportedError(
                f"{type(self).__name__} has no state {unknown[0]!r} to start",
                site=user_site(),
                got=f"init for {unknown}",
                wanted=f"states among {list(states)}",
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
    """"c" of the cell l0, "c_l1" of l1, "c_l0_reverse" of l0_reverse."""
    return state if cell == "l0" else f"{state}_{cell}"
