"""A recurrent decoder that attends to a source at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from graphnn.frontend.attention import attend
from graphnn.nn.attention.attention import AdditiveAttention
from graphnn.nn.axes import sequence_axis
from graphnn.nn.options import one_of
from graphnn.nn.recurrent.gru import GRUCell
from graphnn.nn.recurrent.lstm import LSTMCell
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import Value

CELLS = {"gru": GRUCell, "lstm": LSTMCell}
SCORES = ("additive", "dot")


class AttentionDecoder(nn.Module):
    """A recurrent cell whose input includes attention of its state to a source.

    Compiled alone it takes `x` (batch, target, input_size) and `source` (batch, source,
    source_size).

        e_j = v·tanh(W s' + U k_j)    "additive" (Bahdanau et al. 2015, arXiv:1409.0473, A.1.2)
        e_j = (W s')·k_j              "dot" (Luong et al. 2015, arXiv:1508.04025, "general")
        c = Σ_j softmax(e)_j k_j,  s = cell([x, c], s')

    Here s' is the state of the previous step. `y = decoder(x, source)` takes a value of shape
    (input_size,) and one of shape (source_size,) over another axis. It returns s and c
    concatenated, (output_size,) = (hidden_size + source_size,). Positions beyond the length of a
    ragged source are ignored.

        model = gn.compile(gn.nn.AttentionDecoder(3, 4, 5))
        y = model(x=torch.randn(2, 6, 3), source=torch.randn(2, 7, 5))  # (2, 6, 9)

    Parameters
    ----------
    input_size, hidden_size, source_size : widths of x, of the state and of the source
    cell : "gru" (reset before the matmul, as in the paper) or "lstm"
    score : "additive" or "dot"
    attention_size : width of W s' + U k; `hidden_size` by default
    options : those of the cell
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        source_size: int,
        *,
        cell: str = "gru",
        score: str = "additive",
        attention_size: int | None = None,
        **options: Any,
    ):
        super().__init__()
        one_of("AttentionDecoder", "cell", cell, CELLS)
        one_of("AttentionDecoder", "score", score, SCORES)
        self.input_size, self.hidden_size, self.source_size = input_size, hidden_size, source_size
        self.cell = CELLS[cell](input_size + source_size, hidden_size, **options)
        past = self.cell.output_size
        self.output_size = past + source_size
        self.attention: nn.Module = (
            AdditiveAttention(past, source_size, attention_size or hidden_size)
            if score == "additive"
            else nn.Linear(past, source_size, bias=False)
        )

    def graph(self, g: Any) -> None:
        """Inputs `x` (input_size,) over target, `source` (source_size,) over source; output `y`."""
        source = ("source", self.source_size, "source")
        standalone_graph(self, g, ("x", self.input_size, "target"), source)

    def forward(
        self,
        x: Value,
        source: Value,
        over: str | None = None,
        along: str | None = None,
        init: Mapping[str, Any] | None = None,
        mask: Value | None = None,
        with_states: bool = False,
    ) -> Any:
        """x (input_size,) over the target and source (source_size,) over the source -> (output,).

        `over` and `along` name the axes of target and source if values have several. `init` gives
        initial states by name: "h" and, for an LSTM, "c". `mask` is true where a step may attend to
        a position of the source. If `with_states`, returns also a dict of the states, "context" and
        "weights".
        """
        over, along = sequence_axis(x, over), sequence_axis(source, along)
        g, init = x.graph, init or {}
        carried = g.ir.layout({a for v in (x, source) for a in v.axes} - {over, along})
        past = {
            name: g.state(
                g.unique(f"{g.name_of(self)}.{name}"), size, over, carried, init.get(name)
            )
            for name, size in self.cell.sizes.items()
        }
        context, weights = self._attend(past["h"], source, along, mask)
        now = self.cell(torch.cat([x, context]), **past)
        for name, before in past.items():
            before.next = now[name]
        y = torch.cat([now["h"], context])
        return (y, {**now, "context": context, "weights": weights}) if with_states else y

    def _attend(self, past: Value, source: Value, along: str, mask: Value | None) -> Any:
        """The context and its weights."""
        if isinstance(self.attention, AdditiveAttention):
            return self.attention(past, source, over=along, mask=mask, with_weights=True)
        query = self.attention(past)
        return attend(query, source, over=along, scale=1.0, mask=mask, with_weights=True)
