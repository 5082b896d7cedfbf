"""The model's floating dtype, in which a graph computes unless another dtype is stated."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def floating(owner: nn.Module, moved: torch.dtype | None = None) -> torch.dtype:
    """The floating dtype of a module.

    It is that of its first floating parameter, or else of its first floating buffer, or else the
    dtype that the model was `moved` to, or else torch's default.
    """
    for tensor in chain(owner.parameters(), owner.buffers()):
        if tensor.dtype.is_floating_point:
            return tensor.dtype
    return torch.get_default_dtype() if moved is None else moved


def least(dtype: torch.dtype, guard: float) -> float:
    """A guard against division by zero: `guard`, or the smallest normal number of `dtype`."""
    return max(guard, torch.finfo(dtype).tiny) if dtype.is_floating_point else guard


def whole(number: object) -> bool:
    """Whether a Python number is integral, so that every numeric dtype can represent it."""
    return isinstance(number, (int, float)) and number == number // 1


def number_of(dtype: torch.dtype) -> type[int] | type[float]:
    """The Python type that corresponds to a dtype: bool, int or float."""
    if dtype == torch.bool:
        return bool
    return float if dtype.is_floating_point or dtype.is_complex else int
