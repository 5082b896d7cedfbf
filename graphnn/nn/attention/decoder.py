"""A recurrent decoder that looks at a source at every step."""

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
from graphnn.nn.standalone import alone
from graphnn.nn.types import Value

CELLS = {"gru": GRUCell, "lstm": LSTMCell}
SCORES = ("additive", "dot")


class AttentionDecoder(nn.Module):
    """At each step: score every place of a source by the state, softmax, weighted sum, one cell.

    Compiled alone it takes `x` (batch, target, input_size), `source` (batch, source, source_size).

        e_j = v·tanh(W s' + U k_j)    "additive" (Bahdanau et al. 2015, arXiv:1409.0473, A.1.2)
        e_j = (W s')·k_j              "dot" (Luong et al. 2015, arXiv:1508.04025, "general")
        c = Σ_j softmax(e)_j k_j,  s = cell([x, c], s')

    with s' the state of a step ago. Called `y = decoder(x, source)` on a value of shape
    (input_size,) and one of shape (source_size,) over another axis, it gives s and c joined,
    (output_size,) = (hidden_size + source_size,). A ragged source is looked at as far as it goes.

    Parameters
    ----------
    input_size, hidden_size, source_size : widths of x, of the state, of what is attended to
    cell : "gru" (reset before the product, as in the paper) or "lstm"
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
        """Inputs `x` (input_size,) over target and `source` (source_size,) over source, output
        `y`."""
        source = ("source", self.source_size, "source")
        alone(self, g, ("x", self.input_size, "target"), source)

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
        """(input,) over the target's axis and (source,) over the source's -> (output,).

        `over` and `along` name the axes of target and source where values have several. `init` are
        first states by name, "h" and, of an LSTM, "c"; `mask` is true where the source may be
        looked at. With `with_states` also the states, "context" and "weights" by name.
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
        context, weights = self._look(past["h"], source, along, mask)
        now = self.cell(torch.cat([x, context]), **past)
        for name, before in past.items():
            before.next = now[name]
        y = torch.cat([now["h"], context])
        return (y, {**now, "context": context, "weights": weights}) if with_states else y

    def _look(self, past: Value, source: Value, along: str, mask: Value | None) -> Any:
        """The context and its weights."""
        if isinstance(self.attention, AdditiveAttention):
            return self.attention(past, source, over=along, mask=mask, with_weights=True)
        query = self.attention(past)
        return attend(query, source, over=along, scale=1.0, mask=mask, with_weights=True)
