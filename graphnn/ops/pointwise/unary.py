"""Pointwise functions of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import SumOfProducts, row

Gradient = Callable[[Expr, Expr, Expr], Any]


def unary(
    name: str,
    grad: Gradient,
    *,
    triton: str = "",
    prelude: str = "",
    run: Callable[[torch.Tensor], torch.Tensor] | None = None,
    torch_text: str = "",
    out: str = "torch.{name}({{0}}, out={{out}})",
    aliases: str = "",
    linear_in: SumOfProducts = (),
    same_dtype: bool = True,
    floats_only: bool = False,
    flops: int = 1,
) -> None:
    """Add the row of a function of one tensor, `torch.<name>` unless `run` is another one.

    `grad(g, y, x)` returns the gradient of the operand `x`, given the gradient `g` of the result
    `y`. The text in kernels is `triton`, or a call of the prelude's function `prelude`. `aliases`
    are further names of the torch function, separated by spaces.
    """
    row(
        name,
        "pointwise",
        getattr(torch, name) if run is None else run,
        grad=lambda g, y, x: (grad(g, y, x),),
        torch_names=(name, *aliases.split()),
        torch_text=torch_text or f"torch.{name}({{0}})",
        out_text=out.format(name=name),
        triton_text=triton,
        prelude=prelude,
        linear_in=linear_in,
        same_dtype=same_dtype,
        floats_only=floats_only,
        flops=flops,
    )


def _no_gradient(g: Expr, y: Expr, x: Expr) -> None:
    return None


unary("neg", lambda g, y, x: -g, triton="-{0}", aliases="negative __neg__", linear_in=((-1, (0,)),))
unary("abs", lambda g, y, x: g * make("sign", x), triton="tl.abs({0})", aliases="absolute __abs__")
unary("sign", _no_gradient, prelude="sign")
unary("square", lambda g, y, x: g * x * 2, triton="({0} * {0})", linear_in=((1, (0, 0)),))
unary("reciprocal", lambda g, y, x: -(g * y * y), triton="(1 / {0})", flops=4)
unary("sqrt", lambda g, y, x: g / (y * 2), triton="tl.sqrt({0})", flops=4)
unary("rsqrt", lambda g, y, x: g * (y * y * y) * -0.5, triton="tl.rsqrt({0})", flops=4)

# exponentials and logarithms
unary("exp", lambda g, y, x: g * y, triton="tl.exp({0})", flops=8)
unary("exp2", lambda g, y, x: g * y * math.log(2), triton="tl.exp2({0})", flops=8)
unary("expm1", lambda g, y, x: g * (y + 1), prelude="expm1", flops=8)
unary("log", lambda g, y, x: g / x, triton="tl.log({0})", flops=8)
unary("log1p", lambda g, y, x: g / (x + 1), prelude="log1p", flops=8)
unary("log2", lambda g, y, x: g / (x * math.log(2)), triton="tl.log2({0})", flops=8)
unary(
    "log10",
    lambda g, y, x: g / (x * math.log(10)),
    triton="(tl.log({0}) * 0.4342944819032518)",
    flops=8,
)

# circular and hyperbolic functions
unary("sin", lambda g, y, x: g * make("cos", x), triton="tl.sin({0})", flops=10)
unary("cos", lambda g, y, x: -(g * make("sin", x)), triton="tl.cos({0})", flops=10)
unary("tan", lambda g, y, x: g * (y * y + 1), triton="(tl.sin({0}) / tl.cos({0}))", flops=20)
unary("sinh", lambda g, y, x: g * make("cosh", x), prelude="sinh", flops=10)
unary("cosh", lambda g, y, x: g * make("sinh", x), prelude="cosh", flops=10)
unary("tanh", lambda g, y, x: make("tanh_grad", g, y), prelude="tanh", flops=10)
unary(
    "asinh",
    lambda g, y, x: g * make("rsqrt", x * x + 1),
    prelude="asinh",
    aliases="arcsinh",
    flops=12,
)
unary(
    "acosh",
    lambda g, y, x: g * make("rsqrt", x * x - 1),
    prelude="acosh",
    aliases="arccosh",
    flops=12,
)
unary("atanh", lambda g, y, x: g / (1 - x * x), prelude="atanh", aliases="arctanh", flops=12)
unary(
    "erf",
    lambda g, y, x: g * make("exp", -(x * x)) * (2 / math.sqrt(math.pi)),
    triton="tl.erf({0})",
    flops=10,
)

# activations
unary(
    "sigmoid",
    lambda g, y, x: make("sigmoid_grad", g, y),
    prelude="sigmoid",
    aliases="expit",
    flops=10,
)
unary(
    "relu",
    lambda g, y, x: make("where", make("gt", y, 0), g, 0.0),
    triton="tl.maximum({0}, 0.0, propagate_nan=tl.PropagateNan.ALL)",
    # torch.relu alone cannot write into a given tensor
    out="torch.clamp_min({{0}}, 0, out={{out}})",
    floats_only=True,
)


def _hardswish_grad(g: Expr, y: Expr, x: Expr) -> Expr:
    """At -3 the gradient is 0, at 3 it is `g`, as torch has it."""
    sloped = make("where", make("ge", x, 3), g, g * (x / 3 + 0.5))
    return make("where", make("le", x, -3), 0.0, sloped)


unary(
    "hardswish",
    _hardswish_grad,
    triton="({0} * tl.minimum(tl.maximum({0} + 3.0, 0.0), 6.0) * (1 / 6))",
    run=F.hardswish,
    torch_text="F.hardswish({0})",
    out="torch._C._nn.hardswish({{0}}, out={{out}})",
    floats_only=True,
    flops=5,
)

# rounding: the gradient is zero
unary("floor", _no_gradient, triton="tl.floor({0})", floats_only=True)
unary("ceil", _no_gradient, triton="tl.ceil({0})", floats_only=True)
unary("round", _no_gradient, prelude="round_half_even", floats_only=True)
unary(
    "trunc",
    _no_gradient,
    triton="tl.where({0} < 0, tl.ceil({0}), tl.floor({0}))",
    aliases="fix",
    floats_only=True,
)

# truth values and bits
unary("logical_not", _no_gradient, triton="({0} == 0)", same_dtype=False)
row(
    "isnan",
    "pointwise",
    torch.isnan,
    grad=lambda g, y, x: (None,),
    torch_names=("isnan",),
    torch_text="torch.isnan({0})",
    triton_text="({0} != {0})",
)
row(
    "bitwise_not",
    "pointwise",
    torch.bitwise_not,
    grad=lambda g, y, x: (None,),
    torch_text="torch.bitwise_not({0})",
    out_text="torch.bitwise_not({0}, out={out})",
    triton_text="~{0}",
)
