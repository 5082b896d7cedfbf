"""Parts of a softmax over an axis whose logsumexp is known: functions of one score."""

from __future__ import annotations

import torch

from graphnn.ops.registry import row

_EXP = "tl.where({1} == float('-inf'), 0.0, tl.exp({0} - {1}))"


def soft(s: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    """Return exp(s - peak), the softmax at a score `s`; `peak` is the logsumexp of all scores.

    The result is zero if `peak` is -inf: then no position may be attended to.
    """
    none = peak == float("-inf")
    return torch.where(none, 0, torch.exp(s - torch.where(none, 0, peak)))


# `delta` is the sum over the axis of the softmax times its gradient, so that the derivative at a
# score needs no other position
row(
    "soft",
    "pointwise",
    lambda s, peak, delta: soft(s, peak),
    grad=lambda g, y, s, peak, delta: (y * (g - delta), None, None),
    torch_text="runtime.soft({0}, {1})",
    triton_text=_EXP,
    same_dtype=True,
    flops=10,
)


def weigh(s: torch.Tensor, peak: torch.Tensor) -> torch.Tensor:
    """Return `soft` in the dtype of the score; a peak may have a wider one."""
    return soft(s, peak).to(s.dtype)


# the softmax at a score, whose logsumexp is a value with a gradient of its own
row(
    "weigh",
    "pointwise",
    weigh,
    grad=lambda g, y, s, peak: (g * y, -(g * y)),
    torch_text="runtime.weigh({0}, {1})",
    triton_text=_EXP,
    same_dtype=True,
    flops=10,
)


def widen(x: torch.Tensor) -> torch.Tensor:
    """Return `x` in float32, or in its own dtype if that is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


# the operand of a logsumexp; in the graph it has the dtype of `x`
row(
    "widen",
    "pointwise",
    lambda x: x,
    grad=lambda g, y, x: (g,),
    torch_text="runtime.widen({0})",
    triton_text="{0}",
    same_dtype=True,
)


def level(x: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Return which elements equal the largest one, except for rounding.

    The two may have been computed in different orders: a difference of 64 roundings in float32, or
    in a wider dtype, is allowed.
    """
    slack = 64 * torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    return (x == top) | (x >= top - top.abs() * slack)


row(
    "level",
    "pointwise",
    level,
    grad=lambda g, y, x, top: (None, None),
    torch_text="runtime.level({0}, {1})",
    prelude="close_to_max",
)
