"""The model's floating dtype: what a graph computes in where nothing else is stated."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn


def floating(owner: nn.Module, moved: torch.dtype | None = None) -> torch.dtype:
    """That of the first floating parameter, else of the first floating buffer, else the one that
    the model was `moved` to, else torch's default."""
    for tensor in chain(owner.parameters(), owner.buffers()):
        if tensor.dtype.is_floating_point:
            return tensor.dtype
    return torch.get_default_dtype() if moved is None else moved


def least(dtype: torch.dtype, guard: float) -> float:
    """A guard against zero that is none in `dtype`: its smallest normal number, or more."""
    return max(guard, torch.finfo(dtype).tiny) if dtype.is_floating_point else guard


def whole(number: object) -> bool:
    """Whether a Python number is one that every dtype of numbers can hold."""
    return isinstance(number, (int, float)) and number == number // 1


def number_of(dtype: torch.dtype) -> type[int] | type[float]:
    """The Python numbers that a dtype's are like."""
    if dtype == torch.bool:
        return bool
    return float if dtype.is_floating_point or dtype.is_complex else int
