"""One layer of a transformer: encoder, decoder, or decoder with cross-attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.nn.attention.attention import MultiHeadAttention
from graphnn.nn.attention.positions import RelativePositions, RotaryPositions
from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import Value

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}
TorchLayer = nn.TransformerEncoderLayer | nn.TransformerDecoderLayer


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention if `cross`, and a feed-forward network, each with a residual.

    Compiled alone it takes `x` (batch, time, width) and, if `cross`, `memory` (batch, source,
    width).

    The layer norm stands after each sum (Vaswani et al. 2017, arXiv:1706.03762, section 3.1) or, if
    `norm_first`, before each part (Xiong et al. 2020, arXiv:2002.04745). The module equals
    `nn.TransformerEncoderLayer`, or `nn.TransformerDecoderLayer` if `cross`; its parameters have
    the same names.

        model = gn.compile(gn.nn.TransformerBlock(8, heads=2, causal=True))
        y = model(x=torch.randn(2, 5, 8))  # (2, 5, 8)

    Parameters
    ----------
    width, heads : as in `MultiHeadAttention`
    hidden : width inside the feed-forward network; 4·width by default
    causal : whether a position attends only to itself and to earlier positions
    cross : whether there is cross-attention to a memory
    norm_first : whether layer norms stand before the parts
    dropout : probability of dropping an element of each part, and an attention weight, while
        training
    activation : "relu", "gelu", "silu", or a function
    bias : whether linear maps and norms have biases
    eps : added to the variance in the norms
    window : number of positions, including its own, that a causal position attends to; None for
        all
    kv_heads, positions : as in `MultiHeadAttention`, for self-attention
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int | None = None,
        *,
        causal: bool = False,
        cross: bool = False,
        norm_first: bool = False,
        dropout: float = 0.0,
        activation: str | Callable[[Any], Any] = "relu",
        bias: bool = True,
        eps: float = 1e-5,
        window: int | None = None,
        kv_heads: int | None = None,
        positions: RotaryPositions | RelativePositions | None = None,
    ):
        super().__init__()
        self.causal, self.cross, self.norm_first = causal, cross, norm_first
        self.dropout, self.activation, self.window = dropout, activation, window
        self.self_attn = MultiHeadAttention(
            width, heads, dropout, bias, kv_heads=kv_heads, positions=positions
        )
        if cross:
            self.multihead_attn = MultiHeadAttention(width, heads, dropout, bias)
        hidden = hidden or 4 * width
        self.linear1 = nn.Linear(width, hidden, bias)
        self.linear2 = nn.Linear(hidden, width, bias)
        for n in range(3 if cross else 2):
            self.add_module(f"norm{n + 1}", nn.LayerNorm(width, eps, bias=bias))

    def graph(self, g: Any) -> None:
        """Input `x` (width,) over time, if `cross` also `memory` over source; output `y`."""
        width = self.self_attn.width
        memory = [("memory", width, "source")] if self.cross else []
        standalone_graph(self, g, ("x", width, "time"), *memory)

    def forward(
        self,
        x: Value,
        memory: Value | None = None,
        over: str | None = None,
        memory_over: str | None = None,
        mask: Value | None = None,
    ) -> Value:
        """(width,) over an axis -> (width,) over it; if `cross`, with `memory` (width,).

        `over` and `memory_over` name the axes if x or the memory have several. `mask` is true where
        a position may attend to another position of its own sequence.
        """
        over = sequence_axis(x, over)
        if (memory is not None) != self.cross:
            raise UnsupportedError(
                "a block takes a memory if and only if cross=True",
                node=x.label,
                site=user_site(),
                got=f"cross={self.cross}, {'a' if memory is not None else 'no'} memory",
                wanted="block(x, memory) with cross=True, block(x) without",
                fix=f"construct it with cross={not self.cross}",
            )
        sees = {"mask": mask, "causal": self.causal, "window": self.window}
        x = self._residual(1, x, lambda v: self.self_attn(v, over=over, **sees))
        if memory is not None:
            x = self._residual(2, x, lambda v: self.multihead_attn(v, memory, over=memory_over))
        return self._residual(3 if self.cross else 2, x, self._feed_forward)

    def _residual(self, number: int, x: Value, map: Callable[[Value], Value]) -> Value:
        """x + map(x), with the layer norm before or after."""
        norm = getattr(self, f"norm{number}")
        if self.norm_first:
            return x + self._dropped(map(norm(x)))
        return norm(x + self._dropped(map(x)))

    def _feed_forward(self, x: Value) -> Value:
        """The feed-forward network."""
        chosen = self.activation
        activation = ACTIVATIONS[chosen] if isinstance(chosen, str) else chosen
        return self.linear2(self._dropped(activation(self.linear1(x))))

    def _dropped(self, x: Value) -> Value:
        return F.dropout(x, self.dropout, self.training)

    @classmethod
    def from_torch(cls, layer: TorchLayer, **options: Any) -> Self:
        """A block with the sizes and weights of a torch layer, plus `options` (`causal=True` …)."""
        attention, norm = layer.self_attn, layer.norm1
        made = cls(
            attention.embed_dim,
            attention.num_heads,
            layer.linear1.out_features,
            **{
                "cross": isinstance(layer, nn.TransformerDecoderLayer),
                "norm_first": layer.norm_first,
                "dropout": layer.dropout.p,
                "activation": layer.activation,
                "bias": attention.in_proj_bias is not None,
                "eps": norm.eps,
                **options,
            },
        )
        made.to(layer.linear1.weight).load_state_dict(layer.state_dict())
        return made.train(layer.training)

    def to_torch(self) -> TorchLayer:
        """The torch layer with the same weights and batch_first=True; masks are passed at calls.

        Raises UnsupportedError if `kv_heads` or `positions` is used, which torch lacks.
        """
        self.self_attn.to_torch()
        torch_class: Any = nn.TransformerDecoderLayer if self.cross else nn.TransformerEncoderLayer
        chosen = self.activation
        made = torch_class(
            self.self_attn.width,
            self.self_attn.heads,
            self.linear1.out_features,
            self.dropout,
            ACTIVATIONS[chosen] if isinstance(chosen, str) else chosen,
            self.norm1.eps,  # type: ignore[union-attr]
            batch_first=True,
            norm_first=self.norm_first,
            bias=self.linear1.bias is not None,
        ).to(self.linear1.weight)
        made.load_state_dict(self.state_dict())
        return made.train(self.training)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        flags = [k for k in ("causal", "cross", "norm_first") if getattr(self, k)]
        return ", ".join(flags)
