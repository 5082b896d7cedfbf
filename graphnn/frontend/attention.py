"""Attention, and reads from an associative memory.

Both are a softmax over a named axis and a weighted sum over it, written with `gn.softmax` and
`gn.sum`.
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
    """Attention: Σ_over softmax(score(query, key)) · value.

    `query`, `keys` and `values` (the keys if not given) have shape (width,) and a floating-point
    dtype. The result has the shape of `values` and varies over the axes of the query. It is zero
    for a query without any allowed position. If the query itself varies over `over`
    (self-attention), the keys get a copy of the axis, named `<over>_key`.

    - `score`: "dot" is scaled by 1/√width of a head unless `scale` is given (Vaswani et al. 2017,
      arXiv:1706.03762, eq. 1). "additive" is v·tanh(q + k) with `weight` = v (Bahdanau et al. 2015,
      arXiv:1409.0473, appendix A.1.2). A function gets the query and the key and returns scores.
    - `bias` is added to the scores: a value, or a function that gets the names of the query's axis
      and of the keys' axis.
    - `mask` (bool) is true at positions that may be attended to. `causal` allows only positions up
      to the query's own, `window` only the last `window` of these.
    - `heads` splits query, keys and values into this many equal parts; weights then have shape
      (heads,). With fewer `kv_heads`, each part of keys and values serves a group of query heads
      (Ainslie et al. 2023, arXiv:2305.13245).
    - `dropout` is the probability of dropping a weight. It is always applied: pass it only in
      training.
    - `with_weights` returns (result, weights).

    Raises AxisError if `causal` or `window` is given and the query does not vary over the axis,
    GraphError if there is no such score, and ShapeError if widths cannot be split into heads.

    >>> g = gn.Graph()
    >>> query, keys = g.input("query", (2,)), g.input("keys", (2,), over="time")
    >>> _ = g.output("y", gn.attend(query, keys, over="time"))
    >>> model = gn.compile(g)
    >>> model(query=torch.zeros(1, 2), keys=torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[2., 3.]])
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
    dropped = F.dropout(weights, dropout) if dropout else weights
    factors = dropped if values.ndim == dropped.ndim else dropped.unsqueeze(-1)
    result = axis_sum(factors * values, axis)
    if heads > 1:
        result, weights = result.reshape(-1), weights.reshape(-1)
    return (result, weights) if with_weights else result


def _heads(
    query: Value, keys: Value, values: Value, heads: int, groups: int
) -> tuple[Value, Value, Value]:
    """(width,) as (heads, rest), or for grouped queries as (groups, heads per group, rest)."""
    for name, v, parts in (
        ("query", query, heads),
        ("keys", keys, groups),
        ("values", values, groups),
    ):
        if v.ndim != 1 or v.shape[0] % parts:
            raise ShapeError(
                f"the {name} cannot be split into {parts} heads",
                node=v.label,
                site=user_site(),
                got=f"shape {tuple(v.shape)}",
                wanted=f"shape (width,) with a width that is a multiple of {parts}",
                fix="choose another number of heads, or map the value to such a width",
            )
    if heads % groups:
        raise ShapeError(
            f"{heads} query heads cannot share {groups} key heads",
            node=keys.label,
            site=user_site(),
            got=f"heads={heads}, kv_heads={groups}",
            wanted="a divisor of heads as kv_heads",
            fix=f"choose kv_heads among {[n for n in range(1, heads + 1) if heads % n == 0]}",
        )
    if groups == heads:
        return query.reshape(heads, -1), keys.reshape(heads, -1), values.reshape(heads, -1)
    return (
        query.reshape(groups, heads // groups, -1),
        keys.reshape(groups, 1, -1),
        values.reshape(groups, 1, -1),
    )


def _score(query: Value, keys: Value, score: Score, weight: Any, scale: float | None) -> Value:
    """The scores of the keys for a query."""
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
        f"gn.attend has no score {score!r}"
        if score != "additive"
        else "an additive score needs its weight v",
        site=user_site(),
        got=f"score={score!r}, weight={weight!r}",
        wanted="'dot', 'additive' with weight=v of shape (width,), or a function of query and key",
        fix="pass score=lambda q, k: ... for any other score",
    )


def _allowed(query: Value, axis: str, over: str, causal: bool, window: int | None) -> Value | None:
    """True at the keys whose positions the query may attend to; None if it may attend to all."""
    if not causal and window is None:
        return None
    if axis == over:
        raise AxisError(
            f"causal attention needs a query that varies over '{over}'",
            node=query.label,
            site=user_site(),
            got=f"axes {query.axes}",
            wanted=f"the axis '{over}'",
            fix="drop causal=True and window=…, or give a query that varies over it",
        )
    graph: Any = query.graph
    key, position = index(axis, graph), index(over, graph)
    past = key <= position
    return past if window is None else past & (position - key < window)


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
    """Read from an associative memory: α_i = k_iᵀx, c = softmax(sharpness · α), s = Σ_i c_i v_i.

    `address` and `keys` have one shape (width,), `values` any shape; all are floating point. The
    result has the shape of `values` and varies over the axes of the address. Memory networks read
    in this way (Sukhbaatar et al. 2015, arXiv:1503.08895, eqs. 1 and 2).

    - `topk` reads only the k slots that match best; of equal matches, the earlier slots.
    - `mask` (bool) is true at slots in use. The result is zero if no slot is in use.
    - `with_weights` returns (result, c).

    Raises AxisError if keys or values do not vary over the axis, and ShapeError if `address` and
    `keys` have different shapes.

    >>> g = gn.Graph()
    >>> address, slots = g.input("address", (2,)), g.axis("slot", 2)
    >>> keys = gn.along(g.parameter("keys", torch.eye(2)), slots)
    >>> _ = g.output("y", gn.lookup(address, keys, keys, topk=1))
    >>> gn.compile(g)(torch.tensor([[0.2, 0.8]])).detach()
    tensor([[0., 1.]])
    """
    match = dot(address, keys) * sharpness
    if mask is not None:
        match = torch.where(mask, match, float("-inf"))
    if topk is not None:
        match = torch.where(top(match, topk, over), match, float("-inf"))
    weights = softmax(match, over)
    read = axis_sum(weights.reshape((1,) * values.ndim) * values, over)
    return (read, weights) if with_weights else read
