"""Torch's arithmetic, activations and casts as primitives."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, const, make, reshape
from graphnn.ops.registry import OPS
from graphnn.ops.torch.registry import HANDLERS, OWN_JUDGES, guards, names


def _handler(op: str, arity: int) -> Callable[..., Any]:
    """Return the handler of a torch function that is exactly one operation."""

    def unary(x: Expr, inplace: bool = False, **rest: Any) -> Any:
        return NotImplemented if rest else make(op, x)

    return unary if arity == 1 else lambda a, b: make(op, a, b)


for _op in OPS.values():
    HANDLERS.update(dict.fromkeys(_op.torch_names, _handler(_op.name, _op.arity)))


def _truths(*xs: Any) -> bool:
    """Return whether all are truth values: their sum is "or", and their product is "and"."""
    return all(x.dtype == torch.bool if isinstance(x, Expr) else type(x) is bool for x in xs)


@names("add", "__add__", "__radd__")
def _add(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    if alpha == 1 and _truths(a, b):
        return make("logical_or", a, b)
    return make("add", a, b if alpha == 1 else make("mul", b, alpha))


@names("sub", "subtract", "__sub__")
def _sub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return make("sub", a, b if alpha == 1 else make("mul", b, alpha))


@names("rsub", "__rsub__")
def _rsub(a: Any, b: Any, *, alpha: Any = 1) -> Any:
    return make("sub", b, a if alpha == 1 else make("mul", a, alpha))


@names("mul", "multiply", "__mul__", "__rmul__")
def _mul(a: Any, b: Any) -> Any:
    return make("logical_and" if _truths(a, b) else "mul", a, b)


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
    return make("remainder", a, b)


@names("__rmod__")
def _rmod(a: Any, b: Any) -> Any:
    return make("remainder", b, a)


@names("pow", "__pow__")
def _pow(a: Any, b: Any) -> Any:
    return make("square", a) if b == 2 and isinstance(b, (int, float)) else make("pow", a, b)


@names("__rpow__")
def _rpow(a: Any, b: Any) -> Any:
    return make("pow", b, a)


def _bitwise(what: str) -> Callable[..., Any]:
    """Return the handler of an operation on bits; of truth values it is a logical one."""
    return lambda *xs: make(f"logical_{what}" if _bools(*xs) else f"bitwise_{what}", *xs)


def _bools(*xs: Any) -> bool:
    return all(x.dtype == torch.bool if isinstance(x, Expr) else isinstance(x, bool) for x in xs)


for _name in ("and", "or", "xor"):
    for _spelled in (f"bitwise_{_name}", f"__{_name}__", f"__r{_name}__"):
        HANDLERS[_spelled] = _bitwise(_name)
HANDLERS["bitwise_not"] = HANDLERS["__invert__"] = _bitwise("not")


@names("bitwise_left_shift", "__lshift__")
def _left_shift(a: Any, b: Any) -> Any:
    return make("bitwise_left_shift", a, b)


@names("bitwise_right_shift", "__rshift__")
def _right_shift(a: Any, b: Any) -> Any:
    return make("bitwise_right_shift", a, b)


@names("where")
def _where(c: Expr, a: Any = None, b: Any = None) -> Any:
    return NotImplemented if a is None or b is None else make("where", c, a, b)


@names("masked_fill")
def _masked_fill(x: Expr, mask: Expr, value: Any) -> Any:
    return make("where", mask, value, x)


@names("clamp", "clip")
def _clamp(x: Expr, min: Any = None, max: Any = None) -> Any:
    return _bounded("clamp", x, min, max)


def _bounded(op: str, x: Expr, low: Any, high: Any) -> Any:
    """Limit `x` by two numbers; bounds that vary, or are in the wrong order, are left to torch."""
    bounds = [b for b in (low, high) if b is not None]
    plain = all(isinstance(b, (int, float)) and b == b for b in bounds)
    if not plain or (len(bounds) == 2 and low > high):
        return NotImplemented
    whole = not x.dtype.is_floating_point and all(isinstance(b, int) for b in bounds)
    least, most = _range(x.dtype) if whole else (-math.inf, math.inf)
    return make(op, x, least if low is None else low, most if high is None else high)


def _range(dtype: torch.dtype) -> tuple[int, int]:
    kind = torch.iinfo(dtype)
    return kind.min, kind.max


@names("hardtanh")
def _hardtanh(x: Expr, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    # for integers it gives integers, whatever its bounds
    floats = x.dtype.is_floating_point
    return _bounded("hardtanh", x, min_val, max_val) if floats else NotImplemented


@names("relu6")
def _relu6(x: Expr, inplace: bool = False) -> Any:
    return _hardtanh(x, 0.0, 6.0)


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
    below = make("expm1", make("where", make("gt", x, 0), 0.0, x)) * alpha
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
    above = make("gt", scaled, float(threshold))
    curved = make("log1p", make("exp", make("where", above, 0.0, scaled)))
    curved = curved if beta == 1 else curved / beta
    return make("where", above, x, curved)


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
    "float": torch.float32,
    "int": torch.int32,
    "short": torch.int16,
    "char": torch.int8,
    "byte": torch.uint8,
    "bool": torch.bool,
    "cfloat": torch.complex64,
    "cdouble": torch.complex128,
}


def cast(x: Expr, dtype: torch.dtype) -> Expr:
    """Return `x` cast to a dtype, even if `x` has it: its dtype may follow the model's later."""
    return make("cast", x, dtype=dtype)


for _name, _dtype in _CASTS.items():
    HANDLERS[_name] = lambda x, memory_format=None, dtype=_dtype: cast(x, dtype)


# the model decides about devices: meta tensors cannot be moved to one
OWN_JUDGES.update(("to", "type"))


@names("to", "type")
def _to(x: Expr, *args: Any, dtype: Any = None, other: Any = None, **rest: Any) -> Any:
    for wanted in (*args, dtype, other):
        if isinstance(wanted, torch.dtype):
            return cast(x, wanted)
        if isinstance(wanted, Expr):
            return make("type_as", x, wanted)
    return x


@names("type_as")
def _type_as(x: Expr, other: Expr) -> Any:
    return make("type_as", x, other)


@names("detach")
def _detach(x: Expr) -> Any:
    return make("detach", x)


@names("asarray", "as_tensor")
def _as_tensor(x: Any, dtype: Any = None, **rest: Any) -> Any:
    return NotImplemented if not isinstance(x, Expr) else x if dtype is None else cast(x, dtype)


@names("tensor")
def _tensor(data: Any, dtype: Any = None, **rest: Any) -> Any:
    """Return a copy without a gradient; elements may be values of shape ()."""
    if isinstance(data, (list, tuple)):
        given = next(x for x in tree_leaves(data) if isinstance(x, Expr))
        parts = [
            _tensor(x if isinstance(x, (Expr, list, tuple)) else const(given.ir, x), dtype)
            for x in data
        ]
        return make("cat", *[reshape(x, (1, *x.shape)) for x in parts], dim=0)
    return make("detach", _as_tensor(data, dtype))


@names("cpu")
def _cpu(x: Expr, *_: Any, **__: Any) -> Any:
    """A graph is on the device of its parameters."""
    return x


OWN_JUDGES.update(("tensor", "cpu"))


@names("sgn")
def _sgn(x: Expr) -> Any:
    return NotImplemented if x.dtype.is_complex else make("sign", x)


@guards("median", "nanmedian")
def _no_median_of_all(*args: Any, dim: Any = None, **_: Any) -> None:
    """Refuse it: torch shares its gradient among equal elements, torch.vmap gives it to one."""
    if len(args) < 2 and dim is None:
        raise UnsupportedError(
            "a median over all dimensions has another gradient for each example than torch's",
            site=user_site(),
            got="median() without a dim",
            wanted="a median along one dimension",
            fix="x.flatten().median(0).values",
        )
