"""Whether a transform of torch is active: of torch.func, forward mode, or gradients by vmap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from graphnn.backends.torch_compile import constant

P = ParamSpec("P")
R = TypeVar("R")


@constant
def under_transform() -> bool:
    """Whether tensors may carry tangents or batches: then torch has to see every operation.

    While torch.compile traces, whether it traces the inside of a transform.
    """
    inside = torch._C._functorch.peek_interpreter_stack() is not None
    return inside or forward_ad._current_level >= 0


def legacy_batched(tensors: Iterable[Tensor]) -> bool:
    """Whether tensors are batched by autograd's legacy vmap (is_grads_batched, vectorize=True)."""
    if torch.compiler.is_compiling():
        return False
    return any(torch._C._functorch.is_legacy_batchedtensor(t) for t in tensors)


def outside_transforms(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that plans and generates code, which outlives the transforms around it.

    It runs as if outside of all transforms.
    """

    @functools.wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        # torch.compile cannot trace the clearing of the stack; it calls planning code untraced
        if torch.compiler.is_dynamo_compiling() or not under_transform():
            return function(*args, **kwargs)
        with temporarily_clear_interpreter_stack():
            return function(*args, **kwargs)

    return alone
