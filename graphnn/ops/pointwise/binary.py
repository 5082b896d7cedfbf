"""Pointwise functions of two tensors, with torch's broadcasting; one of them may be a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import SumOfProducts, row

Gradient = Callable[[Expr, Expr, Expr, Expr], Any]


def binary(
    name: str,
    grad: Gradient,
    *,
    infix: str = "",
    triton: str = "",
    prelude: str = "",
    run: Callable[..., torch.Tensor] | None = None,
    names: str = "",
    linear_in: SumOfProducts = (),
    same_dtype: bool = False,
    floats_only: bool = False,
    truth_operands: bool = False,
    flops: int = 1,
) -> None:
    """Add the row of a function of two tensors, `torch.<name>` unless `run` is another one.

    `grad(g, y, a, b)` returns the gradients of both operands, given the gradient `g` of the result
    `y`. With `infix` the text is an operator: that of the torch backend, and that of kernels unless
    `triton` or `prelude` is given. `names` are the torch functions that are exactly this operation,
    separated by spaces. Those with further arguments have a handler in `graphnn.ops.torch.math`.
    """
    operator = f"({{0}} {infix} {{1}})"
    row(
        name,
        "pointwise",
        getattr(torch, name) if run is None else run,
        grad=grad,
        torch_names=tuple(names.split()),
        torch_text=operator if infix else f"torch.{name}({{0}}, {{1}})",
        out_text=f"torch.{name}({{0}}, {{1}}, out={{out}})",
        triton_text=triton or ("" if prelude else operator),
        prelude=prelude,
        linear_in=linear_in,
        same_dtype=same_dtype,
        floats_only=floats_only,
        truth_operands=truth_operands,
        flops=flops,
    )


def _with_numbers(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a torch function of two tensors that takes a number for one of them, too."""

    def run(a: Any, b: Any) -> torch.Tensor:
        like = a if isinstance(a, torch.Tensor) else b
        a, b = (x if isinstance(x, torch.Tensor) else torch.full_like(like, x) for x in (a, b))
        return function(a, b)

    return run


def _no_gradients(g: Expr, y: Expr, a: Expr, b: Expr) -> Any:
    return None, None


# arithmetic
binary(
    "add",
    lambda g, y, a, b: (g, g),
    infix="+",
    linear_in=((1, (0,)), (1, (1,))),
    same_dtype=True,
)
binary(
    "sub",
    lambda g, y, a, b: (g, -g),
    infix="-",
    linear_in=((1, (0,)), (-1, (1,))),
    same_dtype=True,
)
binary(
    "mul",
    lambda g, y, a, b: (g * b, g * a),
    infix="*",
    linear_in=((1, (0, 1)),),
    same_dtype=True,
)
binary("div", lambda g, y, a, b: (g / b, -(g * y / b)), infix="/", same_dtype=True, flops=4)


def _pow_grad(g: Expr, y: Expr, x: Expr, p: Expr) -> Any:
    """As in torch, the derivative of x ** 0 is 0 at 0, and so is that of 0 ** p by p for p >= 0."""
    number = p.node.attrs["value"] if p.node.op == "const" else None
    to_p = None if number is not None else _pow_grad_to_power(g * y, x, p)
    if x.node.op == "const" or number == 0:
        return None, to_p
    to_x = g * p * make("pow", x, p - 1)
    if number is None:
        to_x = make("where", make("eq", p, 0), 0.0, to_x)
    return to_x, to_p


def _pow_grad_to_power(flow: Expr, x: Expr, p: Expr) -> Expr:
    """Return `flow` times log(x), and 0 for powers of 0 that do not change."""
    if x.node.op != "const":
        constant = make("logical_and", make("eq", x, 0), make("ge", p, 0))
        return flow * make("log", make("where", constant, 1.0, x))
    if (base := x.node.attrs["value"]) == 0:
        return make("where", make("ge", p, 0), 0.0, flow * -math.inf)
    return flow * (math.log(base) if base > 0 else math.nan)


binary("pow", _pow_grad, prelude="power", floats_only=True, same_dtype=True, flops=16)


def _run_floor_divide(a: Any, b: Any) -> torch.Tensor:
    # torch.floor_divide is the same, but torch has no derivative of it
    like = a if isinstance(a, torch.Tensor) else b
    a = a if isinstance(a, torch.Tensor) else torch.full((), a, device=like.device)
    return torch.div(a, b, rounding_mode="floor")


row(
    "floor_divide",
    "pointwise",
    _run_floor_divide,
    grad=_no_gradients,
    torch_text="torch.div({0}, {1}, rounding_mode='floor')",
    out_text="torch.div({0}, {1}, rounding_mode='floor', out={out})",
    prelude="floor_divide",
    same_dtype=True,
)
binary(
    "remainder",
    lambda g, y, a, b: (g, -(g * make("floor_divide", a, b))),
    prelude="remainder",
    same_dtype=True,
)


# the larger and the smaller of two


def _extremum_grad(better: str, worse: str) -> Gradient:
    """Return the gradient of maximum or minimum. Equal operands get half each, as in torch."""

    def grad(g: Expr, y: Expr, a: Expr, b: Expr) -> Any:
        shared = make("where", make("eq", a, b), g * 0.5, g)
        to_a = make("where", make(worse, a, b), 0.0, shared)
        return to_a, make("where", make(better, a, b), 0.0, shared)

    return grad


binary(
    "maximum",
    _extremum_grad("gt", "lt"),
    triton="tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    run=_with_numbers(torch.maximum),
    names="maximum",
    same_dtype=True,
)
binary(
    "minimum",
    _extremum_grad("lt", "gt"),
    triton="tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    run=_with_numbers(torch.minimum),
    names="minimum",
    same_dtype=True,
)

# comparisons
binary("lt", _no_gradients, infix="<", names="lt less")
binary("le", _no_gradients, infix="<=", names="le less_equal")
binary("gt", _no_gradients, infix=">", names="gt greater")
binary("ge", _no_gradients, infix=">=", names="ge greater_equal")
binary("eq", _no_gradients, infix="==", names="eq")
binary("ne", _no_gradients, infix="!=", names="ne")

# truth values and bits
for _name, _infix in {"logical_and": "&", "logical_or": "|", "logical_xor": "^"}.items():
    binary(
        _name,
        _no_gradients,
        triton=f"({{0}} {_infix} {{1}})",
        run=_with_numbers(getattr(torch, _name)),
        names=_name,
        truth_operands=True,
    )
_SHIFTS = {"bitwise_left_shift": "<<", "bitwise_right_shift": ">>"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
for _name, _infix in {**_BITS, **_SHIFTS}.items():
    binary(_name, _no_gradients, infix=_infix)
