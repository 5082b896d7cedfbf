"""Torch's reductions, products, norms, dropout and cells as primitives."""

from __future__ import annotations

import math
import string
from typing import Any

import torch

from graphnn.errors import ShapeError, UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.matmul import einsum, linear
from graphnn.ops.torch.math import cast
from graphnn.ops.torch.registry import guards, names
from graphnn.ops.torch.shapes import chunk
from graphnn.ops.torch.unsupported import refuse_mixing


def _dims(x: Expr, dim: Any) -> tuple[int, ...]:
    """Dimensions of `x`, torch having judged them: a value of none has none to reduce."""
    rank = len(x.shape)
    chosen = range(rank) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(d % rank for d in chosen)) if rank else ()


def _one_dim(x: Expr, dim: int) -> tuple[Expr, int]:
    """`x` and a dimension of it: torch takes a number for a vector of one."""
    return (x, dim % len(x.shape)) if x.shape else (reshape(x, (1,)), 0)


def _keep(y: Expr, x: Expr, dims: tuple[int, ...], keepdim: bool) -> Expr:
    if not keepdim:
        return y
    return reshape(y, [1 if i in dims else n for i, n in enumerate(x.shape)])


@names("sum")
def _sum_dims(x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    if dtype is not None:
        x = cast(x, dtype)
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
    wide, dim = _one_dim(x, dim)
    return make("argmax", wide, dim=dim)


@names("softmax")
def _softmax(x: Expr, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    if dim is None:
        return NotImplemented
    wide, dim = _one_dim(x if dtype is None else cast(x, dtype), dim)
    return reshape(make("softmax", wide, dim=dim), x.shape)


@names("logsumexp")
def _logsumexp(x: Expr, dim: Any, keepdim: bool = False) -> Any:
    dims = _dims(x, dim)
    return _keep(make("logsumexp", x, dims=dims), x, dims, keepdim) if dims else x


@names("log_softmax")
def _log_softmax(x: Expr, dim: Any = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    x = x if dtype is None else cast(x, dtype)
    return NotImplemented if dim is None else x - _logsumexp(x, dim, True)


@names("linear")
def _linear(x: Expr, weight: Expr, bias: Expr | None = None) -> Any:
    if len(weight.shape) != 2 or not x.shape:
        return NotImplemented
    if x.shape[-1] != weight.shape[1]:
        _wrong_width(x, weight)
    y = linear(x, weight)
    return y if bias is None else y + bias


def _wrong_width(x: Expr, weight: Expr) -> None:
    rows, columns = weight.shape
    module, site = x.ir.here
    raise ShapeError(
        f"{module or 'linear'}: Linear({columns}, {rows}) takes ({columns},), "
        f"{x.node.label} is {x.shape}",
        node=module or "linear",
        site=site,
        got=f"{x.node.label} {x.shape}, weight {weight.shape}",
        wanted=f"a last dimension of {columns}",
        fix=f"make the module Linear({x.shape[-1]}, …), or declare the value with {columns}",
    )


@names("matmul", "mm", "bmm", "mv", "dot", "__matmul__")
def _matmul(a: Expr, b: Expr) -> Any:
    equation = matmul_equation(a.shape, b.shape)
    if equation is not None and a.shape[-1] != b.shape[-2:][0]:
        # an einsum would broadcast sizes of one, torch.matmul does not
        raise ValueError(f"{a.shape[-1]} columns meet {b.shape[-2:][0]} rows")
    return NotImplemented if equation is None else einsum(equation, a, b)


@names("inner")
def _inner(a: Expr, b: Expr) -> Any:
    if not a.shape or not b.shape:
        return make("mul", a, b)
    left = string.ascii_lowercase[: len(a.shape) - 1]
    right = string.ascii_uppercase[: len(b.shape) - 1]
    return einsum(f"{left}z,{right}z->{left}{right}", a, b)


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


@names("group_norm")
def _group_norm(
    x: Expr,
    num_groups: int,
    weight: Expr | None = None,
    bias: Expr | None = None,
    eps: float = 1e-5,
) -> Any:
    if len(x.shape) < 2 or x.shape[1] % num_groups:
        return NotImplemented
    grouped = reshape(x, (x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups))
    y = reshape(_layer_norm(grouped, grouped.shape[2:], eps=eps), x.shape)
    channels = (x.shape[1], *[1] * (len(x.shape) - 2))
    y = y if weight is None else y * reshape(weight, channels)
    return y if bias is None else y + reshape(bias, channels)


@guards("addmm", "addmv", "addbmm", "baddbmm", "addr")
def _whole_factors(x: Any, *_: Any, beta: Any = 1, alpha: Any = 1, **__: Any) -> None:
    """Of whole numbers torch rounds the factors, and torch.vmap does not."""
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return
    if not all(isinstance(f, int) for f in (beta, alpha)):
        raise UnsupportedError(
            "whole numbers are scaled by whole numbers here",
            site=user_site(),
            got=f"beta={beta!r}, alpha={alpha!r} of {x.dtype}",
            wanted="whole factors, or floating numbers",
            fix="cast the operands with .float()",
        )


@guards("linear_cross_entropy")
def _no_chunks(*_: Any, options: Any = None, **__: Any) -> None:
    if options is not None:
        raise UnsupportedError(
            "linear_cross_entropy in chunks has no gradient under torch.vmap",
            site=user_site(),
            got=f"options={options!r}",
            wanted="no options",
            fix="write F.cross_entropy(F.linear(x, weight), target)",
        )


@guards("native_layer_norm", "native_batch_norm", "_native_batch_norm_legit")
def _no_halves(x: Expr, *_: Any, **__: Any) -> None:
    """Its statistics are in the dtype of `x` on a CPU, and in float32 elsewhere."""
    if x.dtype in (torch.float16, torch.bfloat16):
        raise UnsupportedError(
            "native norms have statistics of another dtype on each device",
            site=user_site(),
            got=f"{x.dtype}",
            wanted="float32 or float64",
            fix="use F.layer_norm or F.group_norm, or cast the operand with .float()",
        )


@guards("batch_norm")
def _no_batch(x: Expr, *_: Any, **__: Any) -> None:
    refuse_mixing("batch_norm")


@guards("instance_norm")
def _no_running(x: Expr, running_mean: Any = None, *rest: Any, **named: Any) -> None:
    """Statistics that run on from example to example mix them; those of one example are its own."""
    if running_mean is not None and named.get("use_input_stats", rest[3] if rest[3:] else True):
        refuse_mixing("instance_norm with running statistics")


@names("instance_norm")
def _instance_norm(
    x: Expr,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Expr | None = None,
    bias: Expr | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    if not use_input_stats or len(x.shape) < 3:
        return NotImplemented
    channels = (x.shape[1], *[1] * (len(x.shape) - 2))
    y = _layer_norm(x, x.shape[2:], eps=eps)
    y = y if weight is None else y * reshape(weight, channels)
    return y if bias is None else y + reshape(bias, channels)


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


@names("rnn_tanh_cell")
def _rnn_tanh(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    return make("tanh", _linear(x, w, b) + _linear(h, u, c))


@names("rnn_relu_cell")
def _rnn_relu(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    return make("relu", _linear(x, w, b) + _linear(h, u, c))


@names("gru_cell")
def _gru(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    xr, xz, xn = chunk(_linear(x, w, b), 3, -1)
    hr, hz, hn = chunk(_linear(h, u, c), 3, -1)
    r, z = make("sigmoid", xr + hr), make("sigmoid", xz + hz)
    n = make("tanh", xn + r * hn)
    return (1 - z) * n + z * h


@names("lstm_cell")
def _lstm(x: Expr, hc: Any, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    i, f, g, o = chunk(_linear(x, w, b) + _linear(hc[0], u, c), 4, -1)
    cell = make("sigmoid", f) * hc[1] + make("sigmoid", i) * make("tanh", g)
    return make("sigmoid", o) * make("tanh", cell), cell
