"""The weights that a contender is differentiated by: those of what it calls, wherever that lies."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from graphnn.ir.source_location import is_users


def weights(contenders: Iterable[Callable[..., Any]]) -> list[Tensor]:
    """The tensors that require gradients in modules, and in what functions name of their closures
    and globals; each once."""
    seen: dict[int, Any] = {}
    found = (t for thing in contenders for t in _within(thing, seen))
    return list({id(t): t for t in found if t.requires_grad and t.is_leaf}.values())


def _within(thing: Any, seen: dict[int, Any]) -> Iterator[Tensor]:
    """The tensors that can be reached from a thing."""
    if id(thing) in seen:
        return
    seen[id(thing)] = thing
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, nn.Module):
        yield from thing.parameters()
    else:
        for kind, parts in PARTS:
            if isinstance(thing, kind):
                for part in parts(thing):
                    yield from _within(part, seen)


def _named(function: types.FunctionType) -> Iterable[Any]:
    """What the code of a user's function names: of its closure, defaults and globals."""
    if not is_users(function.__code__.co_filename) and not hasattr(function, "__wrapped__"):
        return []
    cells = [c.cell_contents for c in function.__closure__ or () if _filled(c)]
    named = [function.__globals__.get(name) for name in _names(function.__code__)]
    return [*cells, *(function.__defaults__ or ()), *named, getattr(function, "__wrapped__", None)]


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


# what holds other things, and what it holds
PARTS: tuple[tuple[Any, Callable[[Any], Iterable[Any]]], ...] = (
    (types.FunctionType, _named),
    (types.MethodType, lambda m: (m.__self__, m.__func__)),
    (functools.partial, lambda p: (p.func, *p.args, *p.keywords.values())),
    (dict, lambda d: d.values()),
    ((list, tuple), lambda x: x),
)
