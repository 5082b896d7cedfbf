"""Finds the weights to differentiate a contender by, in everyvalue that it can call."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from graphnn.ir.source_location import is_users


def weights(contenders: Iterable[Callable[..., Any]]) -> list[Tensor]:
    """The leaf tensors that require gradients, each once.

    They are found in modules, and in the closures, defaults and globals that functions refer to.
    """
    seen: dict[int, Any] = {}
    found = (t for value in contenders for t in _tensors_in(value, seen))
    return list({id(t): t for t in found if t.requires_grad and t.is_leaf}.values())


def _tensors_in(value: Any, seen: dict[int, Any]) -> Iterator[Tensor]:
    """The tensors that can be reached from an object."""
    if id(value) in seen:
        return
    seen[id(value)] = value
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from value.parameters()
    else:
        for kind, parts in PARTS:
            if isinstance(value, kind):
                for part in parts(value):
                    yield from _tensors_in(part, seen)


def _referred(function: types.FunctionType) -> Iterable[Any]:
    """The objects that a user's function refers to: in its closure, defaults and globals."""
    if not is_users(function.__code__.co_filename) and not hasattr(function, "__wrapped__"):
        return []
    cells = [c.cell_contents for c in function.__closure__ or () if _filled(c)]
    referred = [function.__globals__.get(name) for name in _names(function.__code__)]
    return [
        *cells,
        *(function.__defaults__ or ()),
        *referred,
        getattr(function, "__wrapped__", None),
    ]


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  an empty cell raises
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


# for each type of container, its parts
PARTS: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    (types.FunctionType, _referred),
    (types.MethodType, lambda m: (m.__self__, m.__func__)),
    (functools.partial, lambda p: (p.func, *p.args, *p.keywords.values())),
    (dict, lambda d: d.values()),
    ((list, tuple), lambda x: x),
)
