"""Formulas that torch computes in one call. Passes and gradients use them; users do not."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import row


def _run_tanh_grad(g: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return g * (1 - y * y)


def _run_sigmoid_grad(g: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return g * y * (1 - y)


# ATen's own kernels compute these in one pass over memory if both operands have one shape and
# dtype. The code generator checks that, and writes the formula out otherwise.
row(
    "tanh_grad",
    "pointwise",
    _run_tanh_grad,
    grad=lambda d, r, g, y: (make("tanh_grad", d, y), d * g * y * -2),
    torch_text="torch.ops.aten.tanh_backward({0}, {1})",
    out_text="runtime.tanh_backward({0}, {1}, grad_input={out})",
    triton_text="({0} * (1 - {1} * {1}))",
    same_dtype=True,
    flops=3,
)
row(
    "sigmoid_grad",
    "pointwise",
    _run_sigmoid_grad,
    grad=lambda d, r, g, y: (make("sigmoid_grad", d, y), d * g * (1 - y * 2)),
    torch_text="torch.ops.aten.sigmoid_backward({0}, {1})",
    out_text="runtime.sigmoid_backward({0}, {1}, grad_input={out})",
    triton_text="({0} * {1} * (1 - {1}))",
    same_dtype=True,
    flops=3,
)
row(
    "addcmul",
    "pointwise",
    lambda c, a, b: c + a * b,
    grad=lambda g, y, c, a, b: (g, g * b, g * a),
    torch_text="torch.addcmul({0}, {1}, {2})",
    out_text="torch.addcmul({0}, {1}, {2}, out={out})",
    triton_text="({0} + {1} * {2})",
    linear_in=((1, (0,)), (1, (1, 2))),
    same_dtype=True,
    flops=2,
)


def _lerp_grad(g: Expr, y: Expr, a: Expr, b: Expr, w: Expr) -> Any:
    to_b = g * w
    return g - to_b, to_b, g * (b - a)


row(
    "lerp",
    "pointwise",
    lambda a, b, w: a + w * (b - a),
    grad=_lerp_grad,
    torch_text="torch.lerp({0}, {1}, {2})",
    out_text="torch.lerp({0}, {1}, {2}, out={out})",
    triton_text="({0} + {2} * ({1} - {0}))",
    same_dtype=True,
    flops=3,
)
