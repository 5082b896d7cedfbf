"""Pointwise functions that select one of several values."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import row

row(
    "where",
    "pointwise",
    lambda c, a, b: torch.where(c, a, b),
    grad=lambda g, y, c, a, b: (None, make("where", c, g, 0.0), make("where", c, 0.0, g)),
    torch_text="torch.where({0}, {1}, {2})",
    out_text="torch.where({0}, {1}, {2}, out={out})",
    triton_text="tl.where({0}, {1}, {2})",
)


def _clamp_grad(g: Expr, y: Expr, x: Expr, low: Expr, high: Expr) -> Any:
    """At its bounds a clamp has the derivative 1, as in torch."""
    return make("where", make("eq", x, y), g, 0.0), None, None


def _hardtanh_grad(g: Expr, y: Expr, x: Expr, low: Expr, high: Expr) -> Any:
    """At its bounds a hardtanh has the derivative 0, as in torch."""
    beyond = make("logical_or", make("le", x, low), make("ge", x, high))
    return make("where", beyond, 0.0, g), None, None


_AT_LEAST = "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)"
_BETWEEN = f"tl.minimum({_AT_LEAST}, {{2}}, propagate_nan=tl.PropagateNan.ALL)"

# both limit a value by two numbers; only their gradients differ
row(
    "clamp",
    "pointwise",
    lambda x, low, high: torch.clamp(x, low, high),
    grad=_clamp_grad,
    torch_text="torch.clamp({0}, {1}, {2})",
    out_text="torch.clamp({0}, {1}, {2}, out={out})",
    triton_text=_BETWEEN,
    same_dtype=True,
)
row(
    "hardtanh",
    "pointwise",
    lambda x, low, high: F.hardtanh(x, low, high),
    grad=_hardtanh_grad,
    torch_text="F.hardtanh({0}, {1}, {2})",
    out_text="torch.clamp({0}, {1}, {2}, out={out})",
    triton_text=_BETWEEN,
)
