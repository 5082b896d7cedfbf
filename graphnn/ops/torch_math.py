"""Torch's mathematical functions as primitives: `HANDLERS[name](*args, **kwargs)`.

A handler that returns NotImplemented leaves the call opaque.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable
from typing import Any

import torch

from graphnn.ops.expr import Expr, make, reshape
from graphnn.ops.product import einsum, linear
from graphnn.ops.table import build

HANDLERS: dict[str, Callable[..., Any]] = {}


def names(*spelled: str) -> Callable[[Any], Any]:
    """Register a handler under these names."""

    def register(handler: Any) -> Any:
        HANDLERS.update(dict.fromkeys(spelled, handler))
        return handler

    return register


_UNARY = (
    "neg negative __neg__ exp log log1p expm1 sqrt rsqrt abs absolute __abs__ sign sgn tanh "
    "sigmoid expit relu sin cos erf reciprocal square floor ceil round logical_not isnan"
)
_ALIAS = {"negative": "neg", "__neg__": "neg", "absolute": "abs", "__abs__": "abs", "sgn": "sign"}
_ALIAS |= {"expit": "sigmoid"}
_BINARY = "maximum minimum eq ne lt le gt ge logical_and logical_or logical_xor"


def _unary(op: str) -> Callable[..., Any]:
    def handler(x: Expr, inplace: bool = False, **rest: Any) -> Any:
        return NotImplemented if rest else make(op, x)

    return handler


def _binary(op: str) -> Callable[..., Any]:
    return lambda a, b: make(op, a, b)


for _name in _UNARY.split():
    HANDLERS[_name] = _unary(_ALIAS.get(_name, _name))
for _name in _BINARY.split():
    HANDLERS[_name] = _binary(_name)
for _name, _op in {
    "greater": "gt",
    "less": "lt",
    "greater_equal": "ge",
    "less_equal": "le",
}.items():
    HANDLERS[_name] = _binary(_op)


@names("add", "__add__", "__radd__")
def _add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return make("add", a, b if alpha == 1 else make("mul", b, alpha))


@names("sub", "subtract", "__sub__")
def _sub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return make("sub", a, b if alpha == 1 else make("mul", b, alpha))


@names("rsub", "__rsub__")
def _rsub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return make("sub", b, a if alpha == 1 else make("mul", a, alpha))


@names("mul", "multiply", "__mul__", "__rmul__")
def _mul(a: Any, b: Any) -> Any:
    return make("mul", a, b)


@names("div", "divide", "true_divide", "__truediv__")
def _div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return make("floor_divide", a, b)
    return NotImplemented if rounding_mode else make("div", a, b)


@names("__rtruediv__", "__rdiv__")
def _rdiv(a: Any, b: Any) -> Any:
    return make("div", b, a)


@names("floor_divide", "__floordiv__")
def _floor_divide(a: Any, b: Any) -> Any:
    return make("floor_divide", a, b)


@names("remainder", "__mod__")
def _remainder(a: Any, b: Any) -> Any:
    # the derivative to a floating divisor has no row
    moving = isinstance(b, Expr) and b.dtype.is_floating_point
    return NotImplemented if moving else make("remainder", a, b)


@names("pow", "__pow__")
def _pow(a: Any, b: Any) -> Any:
    return make("square", a) if b == 2 and isinstance(b, (int, float)) else make("pow", a, b)


@names("__rpow__")
def _rpow(a: Any, b: Any) -> Any:
    return make("pow", b, a)


@names("bitwise_and", "__and__", "__rand__")
def _and(a: Any, b: Any) -> Any:
    return make("logical_and", a, b) if _bools(a, b) else NotImplemented


@names("bitwise_or", "__or__", "__ror__")
def _or(a: Any, b: Any) -> Any:
    return make("logical_or", a, b) if _bools(a, b) else NotImplemented


@names("bitwise_not", "__invert__")
def _not(a: Any) -> Any:
    return make("logical_not", a) if _bools(a) else NotImplemented


def _bools(*xs: Any) -> bool:
    return all(not isinstance(x, Expr) or x.dtype == torch.bool for x in xs)


@names("where")
def _where(c: Expr, a: Any = None, b: Any = None) -> Any:
    return NotImplemented if a is None or b is None else make("where", c, a, b)


@names("masked_fill")
def _masked_fill(x: Expr, mask: Expr, value: Any) -> Any:
    return make("where", mask, value, x)


@names("clamp", "clip")
def _clamp(x: Expr, min: Any = None, max: Any = None) -> Any:
    x = x if min is None else make("maximum", x, _like(x, min))
    return x if max is None else make("minimum", x, _like(x, max))


def _like(x: Expr, bound: Any) -> Any:
    return bound if isinstance(bound, Expr) else type(bound)(bound)


@names("hardtanh")
def _hardtanh(x: Expr, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    return _clamp(x, min_val, max_val)


@names("clamp_min")
def _clamp_min(x: Expr, min: Any) -> Any:
    return _clamp(x, min)


@names("clamp_max")
def _clamp_max(x: Expr, max: Any) -> Any:
    return _clamp(x, None, max)


@names("leaky_relu")
def _leaky_relu(x: Expr, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return make("where", make("gt", x, 0), x, x * negative_slope)


@names("elu")
def _elu(x: Expr, alpha: float = 1.0, inplace: bool = False) -> Any:
    below = make("expm1", make("minimum", x, 0.0)) * alpha
    return make("where", make("gt", x, 0), x, below)


@names("silu")
def _silu(x: Expr, inplace: bool = False) -> Any:
    return x * make("sigmoid", x)


@names("gelu")
def _gelu(x: Expr, approximate: str = "none") -> Any:
    if approximate == "none":
        return x * (make("erf", x * (1 / math.sqrt(2))) + 1) * 0.5
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    return x * (make("tanh", inner) + 1) * 0.5


@names("softplus")
def _softplus(x: Expr, beta: float = 1.0, threshold: float = 20.0) -> Any:
    scaled = x if beta == 1 else x * beta
    safe = make("minimum", scaled, float(threshold))
    curved = make("log1p", make("exp", safe))
    curved = curved if beta == 1 else curved / beta
    return make("where", make("gt", scaled, float(threshold)), x, curved)


@names("logsigmoid")
def _logsigmoid(x: Expr) -> Any:
    return make("minimum", x, 0.0) - make("log1p", make("exp", -make("abs", x)))


@names("softsign")
def _softsign(x: Expr) -> Any:
    return x / (make("abs", x) + 1)


@names("lerp")
def _lerp(a: Expr, b: Expr, weight: Any) -> Any:
    return a + weight * (b - a) if isinstance(weight, Expr) else a + (b - a) * weight


@names("addcmul")
def _addcmul(x: Expr, a: Expr, b: Expr, *, value: Any = 1) -> Any:
    return x + (a * b if value == 1 else a * b * value)


@names("addcdiv")
def _addcdiv(x: Expr, a: Expr, b: Expr, *, value: Any = 1) -> Any:
    return x + (a / b if value == 1 else a / b * value)


_CASTS = {
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "long": torch.int64,
    "int": torch.int32,
    "bool": torch.bool,
}


def _cast(x: Expr, dtype: torch.dtype) -> Expr:
    # `.float()` and `.to(torch.float32)` mean the model's floating dtype, as input dtypes do
    wanted = x.ir.floating if dtype == torch.float32 else dtype
    return x if x.dtype == wanted else make("cast", x, dtype=wanted)


for _name, _dtype in _CASTS.items():
    HANDLERS[_name] = lambda x, dtype=_dtype: _cast(x, dtype)
HANDLERS["float"] = lambda x: _cast(x, torch.float32)


@names("to", "type")
def _to(x: Expr, *args: Any, dtype: Any = None, **rest: Any) -> Any:
    wanted = [a for a in (*args, dtype) if isinstance(a, torch.dtype)]
    others = [a.dtype for a in args if isinstance(a, Expr)]
    return _cast(x, (wanted + others)[0]) if wanted or others else x


@names("type_as")
def _type_as(x: Expr, other: Expr) -> Any:
    return _cast(x, other.dtype)


@names("detach")
def _detach(x: Expr) -> Any:
    return make("detach", x)


def _dims(x: Expr, dim: Any) -> tuple[int, ...]:
    rank = len(x.shape)
    chosen = range(rank) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(d % rank if rank else 0 for d in chosen))


def _keep(y: Expr, x: Expr, dims: tuple[int, ...], keepdim: bool) -> Expr:
    if not keepdim:
        return y
    return reshape(y, [1 if i in dims else n for i, n in enumerate(x.shape)])


@names("sum")
def _sum_dims(x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if dtype is not None:
        x = _cast(x, dtype)
    dims = _dims(x, dim)
    return _keep(make("sum", x, dims=dims), x, dims, keepdim) if dims else x


@names("mean")
def _mean(x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    count = math.prod(x.shape[d] for d in _dims(x, dim))
    return _sum_dims(x, dim, keepdim, dtype) * (1.0 / count)


@names("var")
def _var(
    x: Expr, dim: Any = None, *, correction: Any = 1, keepdim: bool = False, **rest: Any
) -> Any:
    if rest or isinstance(dim, bool):
        return NotImplemented
    centred = x - _mean(x, dim, True)
    count = math.prod(x.shape[d] for d in _dims(x, dim)) - correction
    return _sum_dims(make("square", centred), dim, keepdim) * (1.0 / count)


@names("amax")
def _amax(x: Expr, dim: Any = (), keepdim: bool = False) -> Any:
    dims = _dims(x, dim if dim != () else None)
    return _keep(make("amax", x, dims=dims), x, dims, keepdim) if dims else x


@names("amin")
def _amin(x: Expr, dim: Any = (), keepdim: bool = False) -> Any:
    return -_amax(-x, dim, keepdim)


@names("max")
def _max(x: Expr, *rest: Any, **kwargs: Any) -> Any:
    if len(rest) == 1 and isinstance(rest[0], Expr):
        return make("maximum", x, rest[0])
    return NotImplemented if rest or kwargs else _amax(x)


@names("min")
def _min(x: Expr, *rest: Any, **kwargs: Any) -> Any:
    if len(rest) == 1 and isinstance(rest[0], Expr):
        return make("minimum", x, rest[0])
    return NotImplemented if rest or kwargs else _amin(x)


@names("argmax")
def _argmax(x: Expr, dim: Any = None, keepdim: bool = False) -> Any:
    if dim is None or keepdim:
        return NotImplemented
    return make("argmax", x, dim=dim % len(x.shape))


@names("softmax")
def _softmax(x: Expr, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    x = x if dtype is None else _cast(x, dtype)
    return NotImplemented if dim is None else make("softmax", x, dim=dim % len(x.shape))


@names("logsumexp")
def _logsumexp(x: Expr, dim: Any, keepdim: bool = False) -> Any:
    dims = _dims(x, dim)
    return _keep(make("logsumexp", x, dims=dims), x, dims, keepdim)


@names("log_softmax")
def _log_softmax(x: Expr, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    x = x if dtype is None else _cast(x, dtype)
    return NotImplemented if dim is None else x - _logsumexp(x, dim, True)


@names("linear")
def _linear(x: Expr, weight: Expr, bias: Expr | None = None) -> Any:
    if len(weight.shape) != 2 or not x.shape:
        return NotImplemented
    y = linear(x, weight)
    return y if bias is None else y + bias


@names("matmul", "mm", "bmm", "mv", "dot", "inner", "__matmul__")
def _matmul(a: Expr, b: Expr) -> Any:
    equation = matmul_equation(a.shape, b.shape)
    return NotImplemented if equation is None else einsum(equation, a, b)


def matmul_equation(a: tuple[int, ...], b: tuple[int, ...]) -> str | None:
    """The einsum that `torch.matmul` is for these shapes; None where it broadcasts sizes of 1."""
    if not a or not b:
        return None
    lead_a, lead_b = a[:-2], b[:-2]
    shared = min(len(lead_a), len(lead_b))
    if shared and lead_a[len(lead_a) - shared :] != lead_b[len(lead_b) - shared :]:
        return None
    lead = string.ascii_lowercase[: max(len(lead_a), len(lead_b))]
    left = lead[len(lead) - len(lead_a) :] + ("x" if len(a) > 1 else "") + "y"
    right = lead[len(lead) - len(lead_b) :] + "y" + ("z" if len(b) > 1 else "")
    return f"{left},{right}->{lead}{'x' * (len(a) > 1)}{'z' * (len(b) > 1)}"


@names("einsum")
def _einsum(equation: str, *operands: Any) -> Any:
    operands = operands[0] if len(operands) == 1 and not isinstance(operands[0], Expr) else operands
    equation = equation.replace(" ", "")
    if len(operands) != 2 or "." in equation or "->" not in equation:
        return NotImplemented
    left, out = equation.split("->")
    a, b = left.split(",")
    alone = (set(a) ^ set(b)) - set(out)
    if alone or any(len(set(part)) != len(part) for part in (a, b, out)):
        return NotImplemented
    return einsum(equation, *operands)


@names("outer")
def _outer(a: Expr, b: Expr) -> Any:
    return reshape(a, (*a.shape, 1)) * b


@names("bilinear")
def _bilinear(x: Expr, y: Expr, weight: Expr, bias: Expr | None = None) -> Any:
    if len(x.shape) != 1 or len(y.shape) != 1:
        return NotImplemented
    s = einsum("nj,j->n", einsum("i,nij->nj", x, weight), y)
    return s if bias is None else s + bias


@names("addmm", "addmv")
def _addmm(c: Expr, a: Expr, b: Expr, *, beta: Any = 1, alpha: Any = 1) -> Any:
    product = _matmul(a, b)
    if product is NotImplemented or beta != 1 or alpha != 1:
        return NotImplemented
    return c + product


@names("layer_norm")
def _layer_norm(
    x: Expr,
    normalized_shape: Any,
    weight: Expr | None = None,
    bias: Expr | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Any:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if x.shape[len(x.shape) - len(shape) :] != shape:
        return NotImplemented
    dims = tuple(range(len(x.shape) - len(shape), len(x.shape)))
    centred = x - _mean(x, dims, True)
    variance = _mean(make("square", centred), dims, True)
    y = centred * make("rsqrt", variance + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@names("rms_norm")
def _rms_norm(x: Expr, normalized_shape: Any, weight: Expr | None = None, eps: Any = None) -> Any:
    dims = tuple(range(len(x.shape) - len(tuple(normalized_shape)), len(x.shape)))
    tiny = torch.finfo(x.dtype).eps if eps is None else eps
    y = x * make("rsqrt", _mean(make("square", x), dims, True) + tiny)
    return y if weight is None else y * weight


@names("cosine_similarity")
def _cosine(a: Expr, b: Expr, dim: int = -1, eps: float = 1e-8) -> Any:
    """As torch: each norm is at least eps."""

    def norm(x: Expr) -> Any:
        return make("sqrt", make("maximum", _sum_dims(make("square", x), dim), eps * eps))

    if len(a.shape) != len(b.shape):
        return NotImplemented
    return _sum_dims(a * b, dim) / (norm(a) * norm(b))


@names("dropout")
def _dropout(x: Expr, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    if not training or p == 0:
        return x
    return x * random_like(x, "dropout", p)


def random_like(x: Expr, kind: str, p: float = 0.0) -> Expr:
    """Random numbers of `x`'s shape, axes and dtype, drawn once a call for the whole axis."""
    node = build(
        x.ir, "random", (), {"kind": kind, "p": p}, shape=x.shape, dtype=x.dtype, axes=x.axes
    )
    return Expr(x.ir, node)


HANDLERS["randn_like"] = lambda x, **_: random_like(x, "normal")
HANDLERS["rand_like"] = lambda x, **_: random_like(x, "uniform")


@names("rnn_tanh_cell")
def _rnn_tanh(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    return make("tanh", _linear(x, w, b) + _linear(h, u, c))


@names("rnn_relu_cell")
def _rnn_relu(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    return make("relu", _linear(x, w, b) + _linear(h, u, c))


@names("gru_cell")
def _gru(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    from graphnn.ops.torch_shapes import chunk

    xr, xz, xn = chunk(_linear(x, w, b), 3, -1)
    hr, hz, hn = chunk(_linear(h, u, c), 3, -1)
    r, z = make("sigmoid", xr + hr), make("sigmoid", xz + hz)
    n = make("tanh", xn + r * hn)
    return (1 - z) * n + z * h


@names("lstm_cell")
def _lstm(x: Expr, hc: Any, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    from graphnn.ops.torch_shapes import chunk

    i, f, g, o = chunk(_linear(x, w, b) + _linear(hc[0], u, c), 4, -1)
    cell = make("sigmoid", f) * hc[1] + make("sigmoid", i) * make("tanh", g)
    return make("sigmoid", o) * make("tanh", cell), cell
