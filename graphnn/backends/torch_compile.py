"""Marks for torch.compile, without importing it before its first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Made = TypeVar("Made", bound=Callable[..., Any])


def constant(function: Made) -> Made:
    """As torch.compiler.assume_constant_result, but without the seconds to import torch._dynamo."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def uncompiled(function: Made) -> Made:
    """As torch.compiler.disable, from the first call on."""
    made: list[Any] = []

    @constant
    def alone() -> Any:
        if not made:
            made.append(torch.compiler.disable(function))
        return made[0]

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return alone()(*args, **kwargs)

    return cast(Made, call)
