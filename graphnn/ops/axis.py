"""Operations over a named axis: reductions, softmax, and reorderings along it.

`run(x, length)` gets `x` as (n, *shape), the axis first, and optionally the number of positions
that this example has; later positions are ignored. An example without positions gives zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphnn.ir.graph import BATCH
from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import row
from graphnn.ops.sources import index_of, size_of

Length = torch.Tensor | None


def _valid(x: torch.Tensor, length: Length) -> torch.Tensor | None:
    if length is None:
        return None
    places = torch.arange(x.shape[0], device=x.device)
    return (places < length).reshape(-1, *[1] * (x.dim() - 1))


def lowest(dtype: torch.dtype) -> float:
    """Return the lowest value of a dtype, which is the maximum of no elements."""
    if dtype.is_floating_point:
        return float("-inf")
    return 0 if dtype == torch.bool else torch.iinfo(dtype).min


def _fill(x: torch.Tensor, length: Length, value: float) -> torch.Tensor:
    valid = _valid(x, length)
    return x if valid is None else torch.where(valid, x, value)


def _sum(x: torch.Tensor, length: Length = None) -> torch.Tensor:
    return _fill(x, length, 0).sum(0)


def _max(x: torch.Tensor, length: Length = None) -> torch.Tensor:
    if length is None:
        return x.amax(0)
    return torch.where(length > 0, _fill(x, length, lowest(x.dtype)).amax(0), 0).to(x.dtype)


def _argmax(x: torch.Tensor, length: Length = None) -> torch.Tensor:
    return (x if length is None else _fill(x, length, lowest(x.dtype))).argmax(0)


def _softmax(x: torch.Tensor, length: Length = None) -> torch.Tensor:
    # if every position is masked or has the score -inf, the result is zero
    filled = _fill(x, length, float("-inf"))
    top = filled.detach().amax(0)
    e = torch.exp(filled - torch.where(torch.isfinite(top), top, 0))
    total = e.sum(0)
    return e / torch.where(total == 0, 1, total)


def _logsumexp(x: torch.Tensor, length: Length = None) -> torch.Tensor:
    return torch.logsumexp(_fill(x, length, float("-inf")), 0)


def _reverse(x: torch.Tensor, length: Length = None) -> torch.Tensor:
    n = x.shape[0]
    places = torch.arange(n, device=x.device)
    last = n if length is None else length
    return x[torch.where(places < last, last - 1 - places, places)]


def _roll(x: torch.Tensor, length: Length = None, *, shift: int) -> torch.Tensor:
    n = x.shape[0]
    places = torch.arange(n, device=x.device)
    last = torch.full((), n, device=x.device) if length is None else length
    return x[torch.where(places < last, (places - shift) % last.clamp(min=1), places)]


def _at(x: torch.Tensor, length: Length = None, *, position: int) -> torch.Tensor:
    last = torch.full((), x.shape[0], device=x.device) if length is None else length
    place = last + position if position < 0 else torch.full_like(last, position)
    there = (place >= 0) & (place < last)
    picked = x[torch.where(there, place, 0).reshape(1)].squeeze(0)
    return torch.where(there, picked, torch.zeros_like(picked))


def _top(x: torch.Tensor, length: Length = None, *, k: int) -> torch.Tensor:
    """Return true at the `k` largest; of equal elements the earlier ones are taken."""
    filled = x if length is None else _fill(x, length, lowest(x.dtype))
    order = torch.argsort(filled, dim=0, descending=True, stable=True)
    rank = torch.argsort(order, dim=0, stable=True)
    chosen = rank < k
    valid = _valid(x, length)
    return chosen if valid is None else chosen & valid


def _put(x: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Return `x` with another last position. Backends may write into `x`, an input made for it."""
    return torch.cat([x[:-1], last[None]])


def _result_axes(keep: bool) -> Any:
    def axes(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
        union = frozenset().union(*operands)
        return union | {attrs["axis"]} if keep else union - {attrs["axis"]}

    return axes


def _only_valid(g: Expr, axis: str, rest: Sequence[Expr]) -> Expr:
    """Return `g` at the positions an example has, and zero at others: the gradient of a sum."""
    if not rest:
        return g
    return make("where", make("lt", index_of(g.ir, axis), rest[0]), g, 0.0)


def _sum_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    return (_only_valid(g, y.node.attrs["axis"], rest), *([None] * len(rest)))


def _max_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    axis = y.node.attrs["axis"]
    best = make("cast", make("eq", x, y), dtype=x.dtype)
    best = _only_valid(best, axis, rest)
    count = make("maximum", make("axis_sum", best, axis=axis), 1.0)
    return (best * (g / count), *([None] * len(rest)))


def _softmax_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    inner = make("axis_sum", g * y, axis=y.node.attrs["axis"])
    return (y * (g - inner), *([None] * len(rest)))


def _logsumexp_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    return (_only_valid(g * make("exp", x - y), y.node.attrs["axis"], rest), *([None] * len(rest)))


def _reverse_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    return (make("axis_reverse", g, *rest, axis=y.node.attrs["axis"]), *([None] * len(rest)))


def _roll_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    axis, shift = y.node.attrs["axis"], y.node.attrs["shift"]
    return (make("axis_roll", g, *rest, axis=axis, shift=-shift), *([None] * len(rest)))


def _at_grad(g: Expr, y: Expr, x: Expr, *rest: Expr) -> Any:
    axis, position = y.node.attrs["axis"], y.node.attrs["position"]
    end = rest[0] if rest else size_of(g.ir, axis)
    place = end + position if position < 0 else position
    here = make("eq", index_of(g.ir, axis), place)
    return (make("where", here, g, 0.0), *([None] * len(rest)))


def _no_grad(g: Expr, y: Expr, *xs: Expr) -> Any:
    return [None] * len(xs)


def _axis_row(name: str, run: Any, grad: Any, prelude: str = "", **fields: Any) -> None:
    """Add the row of an operation over an axis; `prelude` computes it over the block axis."""
    row(
        name,
        "axis",
        run,
        grad=grad,
        axes=_result_axes(fields.get("keeps_axis", False)),
        private=frozenset({"axis"}),
        prelude=prelude,
        **fields,
    )


_axis_row("axis_sum", _sum, _sum_grad, "axis_sum")
_axis_row("axis_max", _max, _max_grad, "axis_max")
_axis_row("axis_argmax", _argmax, _no_grad)
_axis_row("axis_logsumexp", _logsumexp, _logsumexp_grad, "logsumexp", flops=9)
_axis_row("axis_softmax", _softmax, _softmax_grad, "softmax", keeps_axis=True, flops=10)
_axis_row("axis_reverse", _reverse, _reverse_grad, "flip", keeps_axis=True, flops=0)
_axis_row("axis_roll", _roll, _roll_grad, "roll", keeps_axis=True, flops=0)
_axis_row("axis_at", _at, _at_grad, "element_at", flops=0)
_axis_row("axis_top", _top, _no_grad, "topk_mask", keeps_axis=True, flops=4)
_axis_row("axis_put", _put, _no_grad, keeps_axis=True, flops=0)


def _renamed(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
    return frozenset(attrs["axes"].get(a, a) for a in operands[0])


def _rename_grad(g: Expr, y: Expr, x: Expr) -> Any:
    back = {new: old for old, new in y.node.attrs["axes"].items()}
    return (make("rename", g, axes=back),)


row(
    "rename",
    "rename",
    lambda x: x,
    grad=_rename_grad,
    axes=_renamed,
    private=frozenset({"axes"}),
)


def _along_axes(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
    return operands[0] | {attrs["axis"]}


# the first dimension of a tensor without axes becomes an axis; outside loops only, where autograd
# differentiates it
row(
    "along",
    "along",
    lambda x: x[0],
    axes=_along_axes,
    private=frozenset({"axis"}),
)


def _final_axes(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
    return attrs["state_axes"] - {attrs["axis"]}


# the value that a delay would read after the last position; inputs: its next value, its initial
# values, and the lengths if the axis is ragged
row("final", "final", axes=_final_axes)


def _given(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
    """Return the axes that a pass gave; no operand is ever replaced by one with more."""
    return frozenset().union(*operands) | {attrs["axis"], BATCH}


# z(t) = a(t) z(t-1) + b(t) over a whole axis; inputs a, b and the initial z, which may lack axes
row("scan", "scan", axes=lambda operands, attrs: attrs["axes"])
# torch's own LSTM, GRU or RNN over a whole axis
row("aten", "aten", axes=_given)
# softmax over an axis and the sums it weights, in tiles; `part` is the AttentionRegion
row("attend", "attend", axes=lambda operands, attrs: attrs["axes"])
