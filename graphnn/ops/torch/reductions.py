"""Torch's reductions and products as primitives."""

from __future__ import annotations

import math
import string
from typing import Any

from graphnn.errors import ShapeError, UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make, reshape, role
from graphnn.ops.matmul import einsum, linear
from graphnn.ops.torch.math import cast
from graphnn.ops.torch.registry import guards, names


def _dims(x: Expr, dim: Any) -> tuple[int, ...]:
    """Return dimensions of `x`, which torch has checked; a value of shape () has none."""
    rank = len(x.shape)
    chosen = range(rank) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(d % rank for d in chosen)) if rank else ()


def _one_dim(x: Expr, dim: int) -> tuple[Expr, int]:
    """Return `x` and one of its dimensions; as in torch, a number counts as a vector of one."""
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
def mean(x: Expr, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """Return the mean over dimensions, as `torch.mean`."""
    count = math.prod(x.shape[d] for d in _dims(x, dim))
    with role(x.ir, "sum"):
        total = _sum_dims(x, dim, keepdim, dtype)
    return total * (1.0 / count)


@names("var")
def _var(
    x: Expr, dim: Any = None, *, correction: Any = 1, keepdim: bool = False, **rest: Any
) -> Any:
    if rest or isinstance(dim, bool):
        return NotImplemented
    centred = x - mean(x, dim, True)
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
def linear_map(x: Expr, weight: Expr, bias: Expr | None = None) -> Any:
    """Return `x` times the transposed weight, plus the bias, as `torch.nn.functional.linear`."""
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
        # an einsum would broadcast sizes of one; torch.matmul does not
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
    """Return `torch.matmul` of these shapes as an einsum; None if it broadcasts sizes of 1."""
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


@guards("addmm", "addmv", "addbmm", "baddbmm", "addr")
def _whole_factors(x: Any, *_: Any, beta: Any = 1, alpha: Any = 1, **__: Any) -> None:
    """Refuse fractional factors of integers: torch rounds them, and torch.vmap does not."""
    if x.dtype.is_floating_point or x.dtype.is_complex:
        return
    if not all(isinstance(f, int) for f in (beta, alpha)):
        raise UnsupportedError(
            "integers are scaled by fractional factors",
            site=user_site(),
            got=f"beta={beta!r}, alpha={alpha!r} of {x.dtype}",
            wanted="integer factors, or floating operands",
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


@names("cosine_similarity")
def _cosine(a: Expr, b: Expr, dim: int = -1, eps: float = 1e-8) -> Any:
    """As torch: each norm is at least eps."""

    def norm(x: Expr) -> Any:
        return make("sqrt", make("maximum", _sum_dims(make("square", x), dim), eps * eps))

    if len(a.shape) != len(b.shape):
        return NotImplemented
    return _sum_dims(a * b, dim) / (norm(a) * norm(b))
