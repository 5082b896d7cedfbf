"""The idioms: attention, and the look-up in an associative memory, in terms of the vocabulary.

A softmax over a named axis and a weighted sum over it is all that either is.
"""

# mypy: disable-error-code="assignment,return-value"
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.errors import AxisError, GraphError, ShapeError
from graphnn.frontend.functions import dot, index, rename, softmax, top
from graphnn.frontend.functions import sum as axis_sum
from graphnn.frontend.value import Value
from graphnn.ir.source_location import user_site

Score = str | Callable[[Value, Value], Value]


def attend(
    query: Value,
    keys: Value,
    values: Value | None = None,
    *,
    over: str,
    score: Score = "dot",
    weight: Any = None,
    scale: float | None = None,
    bias: Value | Callable[[str, str], Value] | None = None,
    mask: Value | None = None,
    causal: bool = False,
    window: int | None = None,
    heads: int = 1,
    kv_heads: int | None = None,
    dropout: float = 0.0,
    with_weights: bool = False,
) -> Any:
    """Attention: Σ_over softmax(score(query, key)) value.

    `query`, `keys` (and `values`, keys by default) have shape (width,); with `heads` each is cut
    into that many equal parts, and the weights have shape (heads,). Where the query itself varies
    over `over` (self-attention), the keys get a second copy of the axis, named `<over>_key`.

    `score` is "dot" (scaled by 1/√width of a head unless `scale` is given; Vaswani et al. 2017,
    eq. 1), "additive" (v·tanh(q + k), `weight` = v; Bahdanau et al. 2015, eq. for e_ij), or a
    function of query and key. `bias` is added to it: a value, or a function of the names of the
    query's axis and the keys'. `mask` is true where attending is allowed;
    `causal` allows only positions up to the query's own, `window` only the last that many of them.
    A query with nothing to attend to gets zeros. With `kv_heads` fewer than `heads`, keys and
    values are cut into that many parts, each shared by a group of the queries' (Ainslie et al.
    2023, arXiv:2305.13245). `dropout` drops weights with that probability: give it in training
    alone. With `with_weights`, also the weights. Raises AxisError, GraphError, ShapeError.
    """
    values = keys if values is None else values
    axis = over
    if over in query.axes:
        axis = f"{over}_key"
        keys, values = rename(keys, **{over: axis}), rename(values, **{over: axis})
    if heads > 1:
        query, keys, values = _heads(query, keys, values, heads, kv_heads or heads)
    logits = _score(query, keys, score, weight, scale)
    if bias is not None:
        added = bias(over, axis) if callable(bias) else bias
        logits = logits + (added.reshape(logits.shape) if added.shape == (heads,) else added)
    allowed = _allowed(query, axis, over, causal, window)
    mask = allowed if mask is None else mask if allowed is None else mask & allowed
    if mask is not None:
        logits = torch.where(mask, logits, float("-inf"))
    weights = softmax(logits, axis)
    kept = F.dropout(weights, dropout) if dropout else weights
    spread = kept if values.ndim == kept.ndim else kept.unsqueeze(-1)
    mixed = axis_sum(spread * values, axis)
    if heads > 1:
        mixed, weights = mixed.reshape(-1), weights.reshape(-1)
    return (mixed, weights) if with_weights else mixed


def _heads(
    query: Value, keys: Value, values: Value, heads: int, groups: int
) -> tuple[Value, Value, Value]:
    """(width,) as (heads, rest), or for grouped queries as (groups, heads a group, rest)."""
    for name, v, parts in (
        ("query", query, heads),
        ("keys", keys, groups),
        ("values", values, groups),
    ):
        if v.ndim != 1 or v.shape[0] % parts:
            raise ShapeError(
                f"the {name} cannot be cut into {parts} heads",
                node=v.label,
                site=user_site(),
                got=f"shape {tuple(v.shape)}",
                wanted=f"shape (width,), width a multiple of {parts}",
                fix="choose another number of heads, or map the value to such a width",
            )
    if heads % groups:
        raise ShapeError(
            f"{heads} heads of queries cannot share {groups} heads of keys",
            node=keys.label,
            site=user_site(),
            got=f"heads={heads}, kv_heads={groups}",
            wanted="kv_heads that divides heads",
            fix=f"kv_heads=1, 2 … {heads}",
        )
    if groups == heads:
        return query.reshape(heads, -1), keys.reshape(heads, -1), values.reshape(heads, -1)
    return (
        query.reshape(groups, heads // groups, -1),
        keys.reshape(groups, 1, -1),
        values.reshape(groups, 1, -1),
    )


def _score(query: Value, keys: Value, score: Score, weight: Any, scale: float | None) -> Value:
    if callable(score):
        return score(query, keys)
    if score == "dot":
        width = query.shape[-1]
        scale = width**-0.5 if scale is None else scale
        if query.ndim == 3 and query.shape != keys.shape:
            return torch.einsum("kgd,kd->kg", query, keys.reshape(keys.shape[0], -1)) * scale
        return dot(query, keys) * scale
    if score == "additive" and weight is not None:
        return torch.matmul(torch.tanh(query + keys), weight)
    raise GraphError(
        f"gn.attend has no score {score!r}" if score != "additive" else "an additive score needs v",
        site=user_site(),
        got=f"score={score!r}, weight={weight!r}",
        wanted="'dot', 'additive' with weight=v of shape (width,), or a function of query and key",
        fix="pass score=lambda q, k: ... for any other",
    )


def _allowed(query: Value, axis: str, over: str, causal: bool, window: int | None) -> Value | None:
    """True at the keys that a query may see by their positions; None where that is all."""
    if not causal and window is None:
        return None
    if axis == over:
        raise AxisError(
            f"causal attention needs a query that varies over '{over}'",
            node=query.label,
            site=user_site(),
            got=f"axes {query.axes}",
            wanted=f"the axis '{over}'",
            fix="drop causal=True and window=…: a state attends only to what is there already",
        )
    graph: Any = query.graph
    key, own = index(axis, graph), index(over, graph)
    past = key <= own
    return past if window is None else past & (own - key < window)


def lookup(
    address: Value,
    keys: Value,
    values: Value,
    *,
    over: str = "slot",
    topk: int | None = None,
    sharpness: Any = 1.0,
    mask: Value | None = None,
    with_weights: bool = False,
) -> Any:
    """Associative memory: α_i = k_iᵀx, c = softmax(sharpness α), s = Σ c_i v_i.

    `address` and `keys` have one shape (width,), `values` any. `topk` keeps only the k best
    matching slots (exactly; ties to the earlier slot); `mask` is true at slots that hold something:
    from a memory where none does zeros are read. With `with_weights`, also c. Raises AxisError,
    ShapeError.
    """
    match = dot(address, keys) * sharpness
    if mask is not None:
        match = torch.where(mask, match, float("-inf"))
    if topk is not None:
        match = torch.where(top(match, topk, over), match, float("-inf"))
    weights = softmax(match, over)
    read = axis_sum(weights.reshape((1,) * values.ndim) * values, over)
    return (read, weights) if with_weights else read
