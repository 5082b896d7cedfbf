"""What torch returns from a call, for one example: shapes and dtypes, without any elements.

Every call first runs in torch on meta tensors. What torch refuses is refused, for example a
dimension out of range. If primitives would give another shape or dtype than torch, torch runs the
call itself.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import NoneType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from graphnn.errors import ShapeError, UnsupportedError
from graphnn.ir.source_location import Site
from graphnn.ops.builder import Expr
from graphnn.ops.torch.unsupported import refuse_random

_KNOWN: dict[Any, Any] = {}
_BATCHED: dict[Any, Any] = {}
# the largest number of cached results, and the types of arguments that are part of their key
MOST = 4096
PLAIN = (int, float, complex, str, NoneType, torch.dtype, torch.device)
# functions of a dimension that torch does not check on meta tensors
_UNCHECKED = frozenset({"softmax", "softmin", "sort", "argsort"})


class RandomCalls(TorchDispatchMode):
    """A mode in which `found` says whether a torch call drew random numbers."""

    found = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.found = self.found or torch.Tag.nondeterministic_seeded in function.tags
        return function(*args, **(kwargs or {}))


def verdict(function: Any, args: Any, kwargs: Any, here: tuple[str, Site | None]) -> Any:
    """Return what torch returns for one example: meta tensors, or for example a number.

    Raises what torch raises, and UnsupportedError if the call draws random numbers.
    """
    leaves, spec = tree_flatten((args, kwargs))
    key = _key(function, spec, leaves)
    return _once(_KNOWN, key, lambda: _asked(function, args, kwargs, here))


def _once(known: dict[Any, Any], key: Any, find: Callable[[], Any]) -> Any:
    """Return the cached result of a key, or compute and cache it."""
    if key is None:
        return find()
    if len(known) > MOST:
        known.clear()
    if key not in known:
        known[key] = find()
    return known[key]


def _key(function: Any, spec: Any, leaves: list[Any]) -> Any:
    """Return the key of a call; None if its arguments are objects of the user, never kept here."""
    if not all(isinstance(x, (Expr, *PLAIN)) for x in leaves):
        return None
    # 1, 1.0 and True are equal keys of different meaning
    signed = [(x.shape, x.dtype) if isinstance(x, Expr) else (type(x), x) for x in leaves]
    return function, spec, tuple(signed), torch.get_default_dtype()


def _asked(function: Any, args: Any, kwargs: Any, here: tuple[str, Site | None]) -> Any:
    meta_args, meta_kwargs = tree_map(_meta, (args, kwargs))
    if getattr(function, "__name__", "") in _UNCHECKED:
        _in_range(*meta_args, **meta_kwargs)
    result = None
    with RandomCalls() as drawn:
        try:
            result = function(*meta_args, **meta_kwargs)
        except NotImplementedError:  # torch 2.9 cannot draw from a gamma law without elements
            if not drawn.found:
                raise
    if drawn.found:
        refuse_random(getattr(function, "__name__", str(function)), here[0])
    return result


def by_examples(
    function: Any, args: Any, kwargs: Any, expected: Any, here: tuple[str, Site | None]
) -> None:
    """Raise UnsupportedError if torch.vmap cannot run a function for each example as torch does."""
    leaves, spec = tree_flatten((args, kwargs))
    moving = [i for i, x in enumerate(leaves) if isinstance(x, Expr) and x.axes]
    if not moving:
        return
    given = [_meta(x) for x in leaves]

    def one(*values: torch.Tensor) -> Any:
        full = list(given)
        for i, value in zip(moving, values, strict=True):
            full[i] = value
        again, named = tree_unflatten(full, spec)
        made = tree_flatten(function(*again, **named))[0]
        return [x for x in made if isinstance(x, torch.Tensor)]

    def find() -> None:
        rows = [
            torch.empty((2, *given[i].shape), dtype=given[i].dtype, device="meta") for i in moving
        ]
        wanted = [x for x in tree_flatten(expected)[0] if isinstance(x, torch.Tensor)]
        _tried(one, rows, wanted, getattr(function, "__name__", str(function)), here)

    key = _key(function, spec, leaves)
    _once(_BATCHED, key and (*key, tuple(moving)), find)


def _tried(
    one: Callable[..., Any],
    rows: list[torch.Tensor],
    wanted: list[torch.Tensor],
    name: str,
    here: tuple[str, Site | None],
) -> None:
    words = "torch.vmap gives"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.vmap(one, randomness="different")(*rows)
    except Exception as error:
        made, words = [], (str(error).strip() or type(error).__name__).splitlines()[0]
    forms = [(x.shape[1:], x.dtype) for x in made]
    if forms == [(x.shape, x.dtype) for x in wanted]:
        return
    shapes = ", ".join(f"{tuple(shape)} {dtype}" for shape, dtype in forms)
    raise UnsupportedError(
        f"torch.vmap cannot call '{name}' for each example as torch does for one",
        node=here[0] or name,
        site=here[1],
        got=f"{words} {shapes}".strip(),
        wanted=", ".join(f"{tuple(x.shape)} {x.dtype}" for x in wanted),
        fix="write it with torch's plain operations, or compute it outside the graph",
    )


def _in_range(x: torch.Tensor, dim: Any = -1, *_: Any, **__: Any) -> None:
    if isinstance(dim, int):
        x.size(dim) if x.dim() else x.reshape(1).size(dim)


def _meta(x: Any) -> Any:
    return torch.empty(x.shape, dtype=x.dtype, device="meta") if isinstance(x, Expr) else x


def agrees(result: Any, expected: Any) -> bool:
    """Return whether the result of primitives has the shapes and dtypes of torch's."""
    ours, theirs = tree_flatten(result)[0], tree_flatten(expected)[0]
    return len(ours) == len(theirs) and all(map(_same_type, ours, theirs))


def _same_type(ours: Any, theirs: Any) -> bool:
    if not isinstance(ours, Expr) or not isinstance(theirs, torch.Tensor):
        return False
    return ours.shape == tuple(theirs.shape) and ours.dtype == theirs.dtype


def primitives(handler: Callable[..., Any], args: Any, kwargs: Any, expected: Any) -> Any:
    """Return what a handler makes of a call; NotImplemented if torch's result differs from it."""
    try:
        result = handler(*args, **kwargs)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, ShapeError):
        return NotImplemented  # arguments that torch accepts and the handler does not
    return result if agrees(result, expected) else NotImplemented
