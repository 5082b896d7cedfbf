"""Torch's norms of layers as primitives, each part under a name of its own: `norm.mean` ..."""

from __future__ import annotations

import math
from typing import Any

import torch

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make, reshape, role
from graphnn.ops.torch.reductions import mean
from graphnn.ops.torch.registry import guards, names
from graphnn.ops.torch.unsupported import refuse_mixing


def _standardised(x: Expr, dims: tuple[int, ...], eps: float) -> Expr:
    """Return `x` less its mean over `dims`, divided by its standard deviation."""
    with role(x.ir, "mean"):
        centre = mean(x, dims, True)
    with role(x.ir, "centred"):
        centred = x - centre
    with role(x.ir, "squared"):
        squared = make("square", centred)
    with role(x.ir, "variance"):
        variance = mean(squared, dims, True)
    rstd = _rstd(variance, eps)
    with role(x.ir, "normalised"):
        return centred * rstd


def _rstd(variance: Expr, eps: float) -> Expr:
    """Return one over the standard deviation."""
    with role(variance.ir, "variance_eps"):
        variance = variance + eps
    with role(variance.ir, "rstd"):
        return make("rsqrt", variance)


def _scaled(y: Expr, weight: Expr | None, bias: Expr | None, channels: bool = False) -> Expr:
    """Return `y` times the weight plus the bias, if there are any.

    With `channels` these have one number per channel, the second dimension of `y`.
    """

    def aligned(parameter: Expr) -> Expr:
        if not channels:
            return parameter
        with role(y.ir, "per_channel"):
            return reshape(parameter, (y.shape[1], *[1] * (len(y.shape) - 2)))

    if weight is not None and bias is not None:
        factor = aligned(weight)
        with role(y.ir, "scaled"):
            scaled = y * factor
        return scaled + aligned(bias)
    y = y if weight is None else y * aligned(weight)
    return y if bias is None else y + aligned(bias)


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
    return _scaled(_standardised(x, dims, eps), weight, bias)


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
    with role(x.ir, "grouped"):
        grouped = reshape(x, (x.shape[0], num_groups, math.prod(x.shape[1:]) // num_groups))
    y = _standardised(grouped, (2,), eps)
    with role(x.ir, "ungrouped"):
        y = reshape(y, x.shape)
    return _scaled(y, weight, bias, channels=True)


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
    y = _standardised(x, tuple(range(2, len(x.shape))), eps)
    return _scaled(y, weight, bias, channels=True)


@names("rms_norm")
def _rms_norm(x: Expr, normalized_shape: Any, weight: Expr | None = None, eps: Any = None) -> Any:
    dims = tuple(range(len(x.shape) - len(tuple(normalized_shape)), len(x.shape)))
    with role(x.ir, "squared"):
        squared = make("square", x)
    with role(x.ir, "mean_square"):
        mean_square = mean(squared, dims, True)
    rstd = _rstd(mean_square, torch.finfo(x.dtype).eps if eps is None else eps)
    with role(x.ir, "normalised"):
        y = x * rstd
    return _scaled(y, weight, None)


@guards("native_layer_norm", "native_batch_norm", "_native_batch_norm_legit")
def _no_halves(x: Expr, *_: Any, **__: Any) -> None:
    """Refuse half precision: statistics are in the dtype of `x` on a CPU, else in float32."""
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
    """Refuse running statistics: they mix examples. Statistics of one example do not."""
    if running_mean is not None and named.get("use_input_stats", rest[3] if rest[3:] else True):
        refuse_mixing("instance_norm with running statistics")
