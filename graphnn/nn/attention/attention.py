"""Attention modules: multi-head dot-product attention, and the additive attention of decoders."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from graphnn.errors import AxisError, ShapeError, UnsupportedError
from graphnn.frontend.attention import attend
from graphnn.frontend.functions import index, length, roll
from graphnn.ir.source_location import user_site
from graphnn.nn.attention.positions import RelativePositions, RotaryPositions
from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import Value


class MultiHeadAttention(nn.Module):
    """Multi-head attention: linear maps to queries, keys and values, attention, an output map.

    Compiled alone it is self-attention of `x` (batch, time, width). It equals
    `nn.MultiheadAttention`, and its parameters have the same names (Vaswani et al. 2017,
    arXiv:1706.03762, section 3.2.2). Keys beyond the length of an example are ignored.

        model = gn.compile(gn.nn.MultiHeadAttention(8, heads=2))
        y = model(x=torch.randn(2, 5, 8))  # (2, 5, 8)

    Parameters
    ----------
    width : width of queries and of the output; each head has width / heads elements
    heads : number of heads
    dropout : probability of dropping an attention weight while training
    bias : whether the linear maps have biases
    key_size, value_size : widths of keys and values; `width` by default
    kv_heads : number of heads of keys and values, each for a group of query heads (Ainslie et al.
        2023, arXiv:2305.13245); `heads` by default
    positions : `RotaryPositions` of queries and keys, or `RelativePositions` in the score; only for
        self-attention
    """

    in_proj_weight: nn.Parameter | None
    q_proj_weight: nn.Parameter | None
    k_proj_weight: nn.Parameter | None
    v_proj_weight: nn.Parameter | None
    in_proj_bias: nn.Parameter | None

    def __init__(
        self,
        width: int,
        heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        key_size: int | None = None,
        value_size: int | None = None,
        *,
        kv_heads: int | None = None,
        positions: RotaryPositions | RelativePositions | None = None,
    ):
        super().__init__()
        self.width, self.heads, self.dropout = width, heads, dropout
        self.kv_heads = kv_heads or heads
        self._check()
        self.key_size, self.value_size = key_size or width, value_size or width
        shared = self.kv_heads * (width // heads)
        self.sizes = (width, shared, shared)
        one = {self.key_size, self.value_size} == {width}
        separate = (("q", width), ("k", self.key_size), ("v", self.value_size))
        whole = torch.empty(sum(self.sizes), width) if one else None
        self.register_parameter("in_proj_weight", None if whole is None else nn.Parameter(whole))
        for (name, size), rows in zip(separate, self.sizes):
            weight = None if one else nn.Parameter(torch.empty(rows, size))
            self.register_parameter(f"{name}_proj_weight", weight)
        total = nn.Parameter(torch.empty(sum(self.sizes))) if bias else None
        self.register_parameter("in_proj_bias", total)
        self.out_proj = nn.Linear(width, width, bias)
        self.positions = positions
        self.reset_parameters()

    def _check(self) -> None:
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ShapeError(
                "the width is not divisible by heads, or heads by kv_heads",
                site=user_site(),
                got=f"width={self.width}, heads={self.heads}, kv_heads={self.kv_heads}",
                wanted="heads that divides width, kv_heads that divides heads",
                fix="change one of these numbers",
            )

    def reset_parameters(self) -> None:
        """Initialise as `torch.nn` does: Glorot uniform weights and zero biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("proj_weight"):
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def graph(self, g: Any) -> None:
        """Self-attention of `x` (width,) over time.

        If keys or values have another width: attention of `query` over target to `keys` and
        `values` over source.
        """
        if self.in_proj_weight is not None:
            standalone_graph(self, g, ("x", self.width, "time"))
            return
        keys = (("keys", self.key_size, "source"), ("values", self.value_size, "source"))
        standalone_graph(self, g, ("query", self.width, "target"), *keys)

    def forward(
        self,
        query: Value,
        keys: Value | None = None,
        values: Value | None = None,
        over: str | None = None,
        *,
        mask: Value | None = None,
        causal: bool = False,
        window: int | None = None,
        with_weights: bool = False,
    ) -> Any:
        """Queries (width,), keys (key_size,) and values (value_size,) over an axis -> (width,).

        `keys` default to the queries (self-attention) and `values` to the keys. `over` names the
        axis of the keys if they have several. `mask`, `causal` and `window` are those of
        `gn.attend`. If `with_weights`, returns also the weights (heads,) over queries and keys.
        """
        keys = query if keys is None else keys
        values = keys if values is None else values
        over = sequence_axis(keys, over)
        sources = (query, keys, values)
        q, k, v = (self._map(x, part) for part, x in enumerate(sources))
        q, k, bias = self._with_positions(q, k, over)
        mixed = attend(
            q,
            k,
            v,
            over=over,
            bias=bias,
            mask=mask,
            causal=causal,
            window=window,
            heads=self.heads,
            kv_heads=self.kv_heads,
            dropout=self.dropout if self.training else 0.0,
            with_weights=with_weights,
        )
        if not with_weights:
            return self.out_proj(mixed)
        return self.out_proj(mixed[0]), mixed[1]

    def _map(self, x: Value, part: int) -> Value:
        """The queries (part 0), keys (1) or values (2) of all heads."""
        name = f"{'qkv'[part]}_proj_weight"
        weight = self._rows(x, self.in_proj_weight, part, getattr(self, name))
        return F.linear(x, weight, self._rows(x, self.in_proj_bias, part, None))

    def _rows(self, x: Value, whole: nn.Parameter | None, part: int, own: Any) -> Any:
        # split as a value of the graph: split as a tensor, it would be a constant
        return own if whole is None else x.graph.value(whole).split(self.sizes)[part]

    def _with_positions(self, q: Value, k: Value, over: str) -> tuple[Value, Value, Any]:
        """Queries and keys with rotary positions, and the bias of relative positions."""
        positions: Any = self.positions
        if positions is None:
            return q, k, None
        if over not in q.axes:
            raise AxisError(
                f"positions over '{over}' need queries that vary over '{over}'",
                node=q.label,
                site=user_site(),
                got=f"queries over {q.axes}",
                wanted="self-attention",
                fix="construct this module without positions=…",
            )
        if isinstance(positions, RotaryPositions):
            return positions(q, over), positions(k, over), None
        return q, k, lambda own, key: positions(q, own, key)

    @classmethod
    def from_torch(cls, module: nn.MultiheadAttention) -> Self:
        """A module with the sizes and weights of a torch module.

        Raises UnsupportedError if `add_bias_kv` or `add_zero_attn` is set.
        """
        if module.bias_k is not None or module.add_zero_attn:
            raise UnsupportedError(
                "keys and values that torch adds to the sequence are not supported",
                got=f"add_bias_kv={module.bias_k is not None}, {module.add_zero_attn=}",
                wanted="a module without them",
                fix="construct it with add_bias_kv=False and add_zero_attn=False",
            )
        sizes = (module.embed_dim, module.num_heads, module.dropout)
        made = cls(*sizes, module.in_proj_bias is not None, module.kdim, module.vdim)
        made.to(module.out_proj.weight).load_state_dict(module.state_dict())
        return made.train(module.training)

    def to_torch(self) -> nn.MultiheadAttention:
        """The torch module with the same weights and batch_first=True.

        Raises UnsupportedError if `kv_heads` or `positions` is used, which torch lacks.
        """
        if self.kv_heads != self.heads or self.positions is not None:
            raise UnsupportedError(
                "torch.nn.MultiheadAttention cannot compute the same as this module",
                got=f"kv_heads={self.kv_heads}, positions={self.positions}",
                wanted="as many heads of keys as of queries, and no positions",
                fix="keep this module: a compiled graph is a torch module too",
            )
        made = nn.MultiheadAttention(
            self.width,
            self.heads,
            self.dropout,
            self.in_proj_bias is not None,
            kdim=self.key_size,
            vdim=self.value_size,
            batch_first=True,
        ).to(self.out_proj.weight)
        made.load_state_dict(self.state_dict())
        return made.train(self.training)

    def extra_repr(self) -> str:
        groups = f", kv_heads={self.kv_heads}" if self.kv_heads != self.heads else ""
        return f"{self.width}, heads={self.heads}{groups}"


class AdditiveAttention(nn.Module):
    """Attention with the score v · tanh(W q + U k + b).

    Bahdanau et al. 2015 (arXiv:1409.0473), appendix A.1.2. Compiled alone it takes `query` (batch,
    target, query_size) and `keys` (batch, source, key_size).

        model = gn.compile(gn.nn.AdditiveAttention(3, 4, 8))
        y = model(query=torch.randn(2, 5, 3), keys=torch.randn(2, 6, 4))  # (2, 5, 4)

    Parameters
    ----------
    query_size, key_size : widths of queries and keys
    width : width of the hidden layer of the score
    """

    def __init__(self, query_size: int, key_size: int, width: int):
        super().__init__()
        self.query = nn.Linear(query_size, width)
        self.key = nn.Linear(key_size, width, bias=False)
        self.weight = nn.Parameter(torch.randn(width) / width**0.5)

    def graph(self, g: Any) -> None:
        """Inputs `query` (query_size,) over target, `keys` (key_size,) over source, output `y`."""
        sizes = self.query.in_features, self.key.in_features
        standalone_graph(self, g, ("query", sizes[0], "target"), ("keys", sizes[1], "source"))

    def forward(
        self,
        query: Value,
        keys: Value,
        values: Value | None = None,
        over: str | None = None,
        mask: Value | None = None,
        with_weights: bool = False,
    ) -> Any:
        """A query (query_size,), keys (key_size,) and values over an axis -> the weighted value.

        `values` may have any shape and default to the keys. If `with_weights`, returns also the
        weights () over queries and keys.
        """
        return attend(
            self.query(query),
            self.key(keys),
            keys if values is None else values,
            over=sequence_axis(keys, over),
            score="additive",
            weight=self.weight,
            mask=mask,
            with_weights=with_weights,
        )


class LocationAttention(AdditiveAttention):
    """Additive attention that depends on earlier weights, for the loop of a decoder.

    The score has an additional term F c inside the tanh. c is the sum of the weights of all earlier
    queries, at the key and at `reach` positions to each side (coverage: Tu et al. 2016,
    arXiv:1601.04811; convolution over locations: Chorowski et al. 2015, arXiv:1506.07503, eq. 8-9).

        model = gn.compile(gn.nn.LocationAttention(3, 4, 8))
        y = model(query=torch.randn(2, 5, 3), keys=torch.randn(2, 6, 4))  # (2, 5, 4)
    """

    def __init__(self, query_size: int, key_size: int, width: int, reach: int = 3):
        super().__init__(query_size, key_size, width)
        self.reach = reach
        self.location = nn.Linear(2 * reach + 1, width, bias=False)

    def forward(  # type: ignore[override]
        self,
        query: Value,
        keys: Value,
        values: Value | None = None,
        over: str | None = None,
        along: str | None = None,
        mask: Value | None = None,
        with_weights: bool = False,
    ) -> Any:
        """As `AdditiveAttention`. `along` names the axis of the queries if they have several."""
        over, along = sequence_axis(keys, over), sequence_axis(query, along)
        g = query.graph
        carried = [a for a in dict.fromkeys((*query.axes, *keys.axes)) if a != along]
        covered = g.state(g.unique(f"{g.name_of(self)}.covered"), (), along, carried)
        seen = self.location(self._around(covered, over))
        mixed, weights = attend(
            self.query(query),
            self.key(keys) + seen,
            keys if values is None else values,
            over=over,
            score="additive",
            weight=self.weight,
            mask=mask,
            with_weights=True,
        )
        covered.next = covered + weights
        return (mixed, weights) if with_weights else mixed

    def _around(self, covered: Value, over: str) -> Value:
        """c at the positions from -`reach` to +`reach` around each key; zero beyond the ends."""
        place, count, parts = index(over, covered.graph), length(over, covered.graph), []
        for step in range(-self.reach, self.reach + 1):
            source = place + step
            inside = (source >= 0) & (source < count)
            parts.append(torch.where(inside, roll(covered, -step, over), 0.0))
        return torch.stack(parts)
