"""Reductions over the dimensions of a value's own shape."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.registry import row


def _kept(shape: tuple[int, ...], dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in dims else n for i, n in enumerate(shape))


def _wide(g: Expr, y: Expr, x: Expr) -> Expr:
    """Return `g`, shaped like the result, with the reduced dimensions restored as 1."""
    return reshape(g, _kept(x.shape, y.node.attrs["dims"]))


def _sum_grad(g: Expr, y: Expr, x: Expr) -> Any:
    return (make("expand", _wide(g, y, x), shape=x.shape),)


def _amax_grad(g: Expr, y: Expr, x: Expr) -> Any:
    best = make("cast", make("eq", x, _wide(y, y, x)), dtype=x.dtype)
    count = make("sum", best, dims=y.node.attrs["dims"])
    return (best * _wide(g / count, y, x),)


def _logsumexp_grad(g: Expr, y: Expr, x: Expr) -> Any:
    return (_wide(g, y, x) * make("exp", x - _wide(y, y, x)),)


def _softmax_grad(g: Expr, y: Expr, x: Expr) -> Any:
    dim = y.node.attrs["dim"]
    inner = make("sum", g * y, dims=(dim,))
    return (y * (g - reshape(inner, _kept(x.shape, (dim,)))),)


row("sum", "reduce", lambda x, dims: x.sum(dims), grad=_sum_grad, floats_only=True)
row("amax", "reduce", lambda x, dims: x.amax(dims), grad=_amax_grad, floats_only=True)
row("logsumexp", "reduce", lambda x, dims: torch.logsumexp(x, dims), grad=_logsumexp_grad, flops=9)
row("argmax", "reduce", lambda x, dim: x.argmax(dim), grad=lambda g, y, x: (None,))
row("softmax", "reduce", lambda x, dim: torch.softmax(x, dim), grad=_softmax_grad, flops=10)
