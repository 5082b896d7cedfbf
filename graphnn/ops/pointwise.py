"""Pointwise operations: one number in, one out, with torch's broadcasting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import row

_TWO_OVER_ROOT_PI = 1.1283791670955126


# torch.relu alone cannot write into a given tensor
_OUT = {"relu": "torch.clamp_min({0}, 0, out={out})"}


def _unary(name: str, grad: Callable[[Expr, Expr, Expr], Any] | None, flops: int = 1) -> None:
    run = getattr(torch, name)
    row(
        name,
        "pointwise",
        run,
        grad=None if grad is None else (lambda g, y, x: (grad(g, y, x),)),
        torch=f"torch.{name}({{0}})",
        out=_OUT.get(name, f"torch.{name}({{0}}, out={{out}})"),
        flops=flops,
    )


def _of_tensors(name: str) -> Callable[..., torch.Tensor]:
    """A torch function that takes no plain numbers, made to take them."""
    function = getattr(torch, name)

    def run(a: Any, b: Any) -> torch.Tensor:
        like = a if isinstance(a, torch.Tensor) else b
        a, b = (x if isinstance(x, torch.Tensor) else torch.full_like(like, x) for x in (a, b))
        return function(a, b)  # type: ignore[no-any-return]

    return run


TENSORS_ONLY = frozenset({"maximum", "minimum", "logical_and", "logical_or", "logical_xor"})
# that of bits is an operator, too
_SHIFTS = {"bitwise_left_shift": "<<", "bitwise_right_shift": ">>"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^", **_SHIFTS}


def _binary(name: str, grad: Callable[..., Any] | None, infix: str = "", flops: int = 1) -> None:
    row(
        name,
        "pointwise",
        _of_tensors(name) if name in TENSORS_ONLY else getattr(torch, name),
        grad=grad,
        torch=f"({{0}} {infix} {{1}})" if infix else f"torch.{name}({{0}}, {{1}})",
        out=f"torch.{name}({{0}}, {{1}}, out={{out}})",
        flops=flops,
    )


def _nothing(*_: Any) -> None:
    return None


_UNARY: dict[str, tuple[Callable[[Expr, Expr, Expr], Any], int]] = {
    "neg": (lambda g, y, x: -g, 1),
    "exp": (lambda g, y, x: g * y, 8),
    "log": (lambda g, y, x: g / x, 8),
    "log1p": (lambda g, y, x: g / (x + 1), 8),
    "expm1": (lambda g, y, x: g * (y + 1), 8),
    "sqrt": (lambda g, y, x: g / (y * 2), 4),
    "rsqrt": (lambda g, y, x: g * (y * y * y) * -0.5, 4),
    "abs": (lambda g, y, x: g * make("sign", x), 1),
    "sign": (_nothing, 1),
    "tanh": (lambda g, y, x: make("tanh_grad", g, y), 10),
    "sigmoid": (lambda g, y, x: make("sigmoid_grad", g, y), 10),
    "relu": (lambda g, y, x: make("where", make("gt", y, 0), g, 0.0), 1),
    "sin": (lambda g, y, x: g * make("cos", x), 10),
    "cos": (lambda g, y, x: -(g * make("sin", x)), 10),
    "erf": (lambda g, y, x: g * make("exp", -(x * x)) * _TWO_OVER_ROOT_PI, 10),
    "reciprocal": (lambda g, y, x: -(g * y * y), 4),
    "square": (lambda g, y, x: g * x * 2, 1),
    "floor": (_nothing, 1),
    "ceil": (_nothing, 1),
    "round": (_nothing, 1),
    "logical_not": (_nothing, 1),
    "bitwise_not": (_nothing, 1),
}
for _name, (_grad, _flops) in _UNARY.items():
    _unary(_name, _grad, _flops)
row("isnan", "pointwise", torch.isnan, grad=lambda g, y, x: (None,), torch="torch.isnan({0})")


def _pow_grad(g: Expr, y: Expr, x: Expr, p: Expr) -> Any:
    """As torch has it at 0: x ** 0 has the derivative 0, and so has 0 ** p to p from 0 on."""
    number = p.node.attrs["value"] if p.node.op == "const" else None
    to_p = None if number is not None else _pow_grad_to_power(g * y, x, p)
    if x.node.op == "const" or number == 0:
        return None, to_p
    to_x = g * p * make("pow", x, p - 1)
    if number is None:
        to_x = make("where", make("eq", p, 0), 0.0, to_x)
    return to_x, to_p


def _pow_grad_to_power(flow: Expr, x: Expr, p: Expr) -> Expr:
    """`flow` times log(x), and 0 where no power of 0 moves."""
    if x.node.op != "const":
        still = make("logical_and", make("eq", x, 0), make("ge", p, 0))
        return flow * make("log", make("where", still, 1.0, x))
    if (base := x.node.attrs["value"]) == 0:
        return make("where", make("ge", p, 0), 0.0, flow * -math.inf)
    return flow * (math.log(base) if base > 0 else math.nan)


def _pick_grad(better: str, worse: str) -> Callable[..., Any]:
    """Maximum and minimum share the gradient where both are equal, as torch does."""

    def grad(g: Expr, y: Expr, a: Expr, b: Expr) -> Any:
        shared = make("where", make("eq", a, b), g * 0.5, g)
        to_a = make("where", make(worse, a, b), 0.0, shared)
        return to_a, make("where", make(better, a, b), 0.0, shared)

    return grad


_binary("add", lambda g, y, a, b: (g, g), "+")
_binary("sub", lambda g, y, a, b: (g, -g), "-")
_binary("mul", lambda g, y, a, b: (g * b, g * a), "*")
_binary("div", lambda g, y, a, b: (g / b, -(g * y / b)), "/", 4)
_binary("pow", _pow_grad, flops=16)
_binary("maximum", _pick_grad("gt", "lt"))
_binary("minimum", _pick_grad("lt", "gt"))
for _name, _sign in {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}.items():
    _binary(_name, lambda g, y, a, b: (None, None), _sign)
for _name in ("logical_and", "logical_or", "logical_xor"):
    _binary(_name, lambda g, y, a, b: (None, None))
for _name, _sign in _BITS.items():
    _binary(_name, lambda g, y, a, b: (None, None), _sign)
_binary("remainder", lambda g, y, a, b: (g, -(g * make("floor_divide", a, b))))


def _run_floor_divide(a: Any, b: Any) -> torch.Tensor:
    # torch.floor_divide is the same, but that torch does not derive it
    like = a if isinstance(a, torch.Tensor) else b
    a = a if isinstance(a, torch.Tensor) else torch.tensor(a, device=like.device)
    return torch.div(a, b, rounding_mode="floor")


row(
    "floor_divide",
    "pointwise",
    _run_floor_divide,
    grad=lambda g, y, a, b: (None, None),
    torch="torch.div({0}, {1}, rounding_mode='floor')",
    out="torch.div({0}, {1}, rounding_mode='floor', out={out})",
)


def _clamp_grad(g: Expr, y: Expr, x: Expr, low: Expr, high: Expr) -> Any:
    """At its bounds a clamp moves with its operand, as torch has it: where it is the operand."""
    return make("where", make("eq", x, y), g, 0.0), None, None


def _hardtanh_grad(g: Expr, y: Expr, x: Expr, low: Expr, high: Expr) -> Any:
    """At its bounds a hardtanh is still, as torch has it."""
    beyond = make("logical_or", make("le", x, low), make("ge", x, high))
    return make("where", beyond, 0.0, g), None, None


# numbers between two others; only the gradients differ
row(
    "clamp",
    "pointwise",
    lambda x, low, high: torch.clamp(x, low, high),
    grad=_clamp_grad,
    torch="torch.clamp({0}, {1}, {2})",
    out="torch.clamp({0}, {1}, {2}, out={out})",
)
row(
    "hardtanh",
    "pointwise",
    lambda x, low, high: F.hardtanh(x, low, high),
    grad=_hardtanh_grad,
    torch="F.hardtanh({0}, {1}, {2})",
    out="torch.clamp({0}, {1}, {2}, out={out})",
)

row(
    "where",
    "pointwise",
    lambda c, a, b: torch.where(c, a, b),
    grad=lambda g, y, c, a, b: (None, make("where", c, g, 0.0), make("where", c, 0.0, g)),
    torch="torch.where({0}, {1}, {2})",
    out="torch.where({0}, {1}, {2}, out={out})",
)


def _run_tanh_grad(g: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return g * (1 - y * y)


def _run_sigmoid_grad(g: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return g * y * (1 - y)


# ATen's own kernels do these in one pass over memory; both sides must have one shape and dtype,
# which the emitter checks, writing the formula out otherwise
row(
    "tanh_grad",
    "pointwise",
    _run_tanh_grad,
    grad=lambda d, r, g, y: (make("tanh_grad", d, y), d * g * y * -2),
    torch="torch.ops.aten.tanh_backward({0}, {1})",
    out="runtime.tanh_backward({0}, {1}, grad_input={out})",
    flops=3,
)
row(
    "sigmoid_grad",
    "pointwise",
    _run_sigmoid_grad,
    grad=lambda d, r, g, y: (make("sigmoid_grad", d, y), d * g * (1 - y * 2)),
    torch="torch.ops.aten.sigmoid_backward({0}, {1})",
    out="runtime.sigmoid_backward({0}, {1}, grad_input={out})",
    flops=3,
)


# c + a b and a + w (b - a), in one call
row(
    "addcmul",
    "pointwise",
    lambda c, a, b: c + a * b,
    grad=lambda g, y, c, a, b: (g, g * b, g * a),
    torch="torch.addcmul({0}, {1}, {2})",
    out="torch.addcmul({0}, {1}, {2}, out={out})",
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
    torch="torch.lerp({0}, {1}, {2})",
    out="torch.lerp({0}, {1}, {2}, out={out})",
    flops=3,
)


def _cast_grad(g: Expr, y: Expr, x: Expr) -> Any:
    return (make("cast", g, dtype=x.dtype) if x.dtype.is_floating_point else None,)


row(
    "cast",
    "pointwise",
    lambda x, dtype: torch.as_tensor(x).to(dtype),
    grad=_cast_grad,
    torch="{0}.to({dtype})",
)

# `x` in the dtype of another value, whatever that comes to be: `promote` makes a cast of it
row(
    "type_as",
    "pointwise",
    lambda x, other: x.to(other.dtype),
    axes=lambda axes, attrs: axes[0],
)


def _clip_grad(g: Expr, y: Expr, x: Expr) -> Any:
    bound = y.node.attrs["bound"]
    return (make("maximum", make("minimum", g, bound), -bound),)


class ClipGradient(torch.autograd.Function):
    """The identity whose gradient is clamped to [-bound, bound], for eager tensors."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, bound: float) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, bound: None) -> torch.Tensor:
        # a view: what is computed in here has no tangents of its own
        return tangent.view_as(tangent)

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> Any:  # type: ignore[override]
        return g.clamp(-ctx.bound, ctx.bound), None


def clip_gradient(x: torch.Tensor, bound: float) -> torch.Tensor:
    """`x`; its gradient is clamped elementwise to [-bound, bound]."""
    return ClipGradient.apply(x, bound)  # type: ignore[no-any-return]


row(
    "clip_gradient",
    "pointwise",
    lambda x, bound: x if x.device.type == "meta" else clip_gradient(x, bound),
    grad=_clip_grad,
    torch="runtime.clip_gradient({0}, {bound})",
)
row(
    "detach",
    "pointwise",
    lambda x: x.detach(),
    grad=lambda g, y, x: (None,),
    torch="{0}.detach()",
)
