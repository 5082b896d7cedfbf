"""Sequence to sequence: an encoder and a decoder, with or without attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphnn.frontend.functions import first, last, reverse
from graphnn.nn.attention.decoder import AttentionDecoder
from graphnn.nn.options import one_of
from graphnn.nn.recurrent.gru import GRU
from graphnn.nn.recurrent.lstm import LSTM
from graphnn.nn.types import Value

LAYERS = {"gru": GRU, "lstm": LSTM}
ATTENTION = (None, "additive", "dot")


class Seq2Seq(nn.Module):
    """Maps the words of a source to the logits of each next word of a target.

    Without attention, the decoder starts from the final states of the encoder and has no other
    input from it (Sutskever et al. 2014, arXiv:1409.3215; they found it best to read the source
    from its end, option `reverse`). With attention, the first decoder layer attends to the outputs
    of the encoder at every step (`AttentionDecoder`; Bahdanau et al. 2015, arXiv:1409.0473), and
    passes the context to the layers above (Wu et al. 2016, arXiv:1609.08144, section 3).

    Call the compiled model on `source` and `target`, int64 (batch, words), with `lengths`. `target`
    holds the words before those to predict, beginning with the start symbol (teacher forcing). The
    result is (batch, words, target_vocabulary). `model.generate(source=…, start=…)` feeds its own
    words back instead.

        model = gn.compile(gn.nn.Seq2Seq(20, 30, 8, 16, attention="additive"))
        source, target = torch.randint(20, (2, 5)), torch.randint(30, (2, 6))
        logits = model(source=source, target=target)  # (2, 6, 30)

    Parameters
    ----------
    source_vocabulary, target_vocabulary : numbers of words
    embedding_size, hidden_size : widths of word embeddings and of states
    num_layers : layers of the encoder and of the decoder
    cell : "lstm" or "gru"
    attention : None, "additive" or "dot"
    bidirectional : use a bidirectional encoder, whose final states pass through tanh of a linear
        map
    reverse : read the source from its end; not with `bidirectional`
    dropout : on embeddings, between layers and before the logits, while training
    with_weights : also output the attention weights, `weights` over source and target. A call then
        returns {"logits": …, "weights": …}, and `generate(record=["weights"])` records them
    options : those of the recurrent layers
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        cell: str = "lstm",
        attention: str | None = None,
        bidirectional: bool = False,
        reverse: bool = False,
        dropout: float = 0.0,
        with_weights: bool = False,
        **options: Any,
    ):
        super().__init__()
        one_of("Seq2Seq", "cell", cell, LAYERS)
        one_of("Seq2Seq", "attention", attention, ATTENTION[1:] if with_weights else ATTENTION)
        self.with_weights = with_weights
        self.num_layers, self.reverse, self.dropout = num_layers, reverse, dropout
        self.source_words = nn.Embedding(source_vocabulary, embedding_size)
        self.target_words = nn.Embedding(target_vocabulary, embedding_size)
        layers = LAYERS[cell]
        self.encoder = layers(
            embedding_size, hidden_size, num_layers, bidirectional, dropout, **options
        )
        wide = self.encoder.output_size
        names = [name for name in self.encoder.state_sizes if not name.endswith("reverse")]
        self.bridge = (
            nn.ModuleDict({name: nn.Linear(wide, hidden_size) for name in names})
            if bidirectional
            else None
        )
        self.attention, seen = None, embedding_size
        if attention is not None:
            sizes = (embedding_size, hidden_size, wide)
            self.attention = AttentionDecoder(*sizes, cell=cell, score=attention, **options)
            seen = self.attention.output_size
        above = num_layers - (attention is not None)
        stack: dict[str, Any] = {"num_layers": above, "dropout": dropout, **options}
        self.decoder = layers(seen, hidden_size, **stack) if above else None
        self.out = nn.Linear(hidden_size if self.decoder else seen, target_vocabulary)

    def graph(self, g: Any) -> None:
        """Inputs `source` and `target`; output `logits`, fed back to `target` when generating.

        If `with_weights`, there is also the output `weights`.
        """
        source = g.input("source", (), over="source", dtype=torch.int64)
        target = g.input("target", (), over="target", dtype=torch.int64)
        logits, weights = self._decoded(source, target)
        g.output("logits", logits)
        if self.with_weights:
            g.output("weights", weights)
        g.feedback("target", "logits")

    def forward(self, source: Value, target: Value) -> Value:
        """Word indices () over two axes -> (target_vocabulary,) over the axis of the target."""
        return self._decoded(source, target)[0]

    def _decoded(self, source: Value, target: Value) -> tuple[Value, Value | None]:
        """The logits, and the attention weights or None."""
        weights = None
        words, states = self._encoded(source)
        y = self._dropped(self.target_words(target))
        if self.attention is not None:
            init = {k: v for k, v in states.items() if "_l" not in k}
            y, seen = self.attention(y, words, init=init, with_states=True)
            y, weights = self._dropped(y), seen["weights"]
            states = {_below(k): v for k, v in states.items() if "_l" in k}
        if self.decoder is not None:
            y = self._dropped(self.decoder(y, init=states))
        return self.out(y), weights

    def _encoded(self, source: Value) -> tuple[Value, dict[str, Value]]:
        """The outputs of the encoder, and the initial states of the decoder."""
        (over,) = source.axes
        x = self._dropped(self.source_words(source))
        outputs, states = self.encoder(reverse(x, over) if self.reverse else x, with_states=True)
        ends = {
            name: (first if name.endswith("reverse") else last)(states[name], over)
            for name in self.encoder.state_sizes
        }
        if self.bridge is None:
            return outputs, ends
        starts = {
            name: torch.tanh(map(torch.cat([ends[name], ends[_reversed(name)]])))
            for name, map in self.bridge.items()
        }
        return outputs, starts

    def _dropped(self, v: Value) -> Value:
        return F.dropout(v, self.dropout, self.training)


def _reversed(name: str) -> str:
    """The name of the reverse direction: "c_l0_reverse" for "c", "c_l1_reverse" for "c_l1"."""
    return f"{name}_reverse" if "_l" in name else f"{name}_l0_reverse"


def _below(name: str) -> str:
    """The name of a state in the layer below: "c_l2" -> "c_l1", "c_l1" -> "c"."""
    state, layer = name.rsplit("_l", 1)
    return f"{state}_l{int(layer) - 1}" if int(layer) > 1 else state
