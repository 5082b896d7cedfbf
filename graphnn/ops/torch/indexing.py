"""Indexing as primitives: numbers, slices, None and Ellipsis, and integers that are values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.torch.inference import verdict
from graphnn.ops.torch.opaque import opaque
from graphnn.ops.torch.registry import OWN_JUDGES, names
from graphnn.ops.torch.shapes import cut

OWN_JUDGES.add("__getitem__")


@names("__getitem__")
def _getitem(x: Expr, index: Any) -> Any:
    """Index as torch does: first numbers and slices, from the left, then all tensors at once."""
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(_plain(i) or isinstance(i, Expr) for i in items):
        return NotImplemented
    for item in items:
        _check(item)
    picks: dict[int, Expr] = {}
    dim = 0
    for item in _spelled_out(x, items):
        if isinstance(item, Expr) and item.shape:
            picks[dim] = item
        x = _step(x, dim, item)
        dim += not _number(item)
    return _picked(x, picks) if picks else x


def _plain(item: Any) -> bool:
    """Return whether an index is a number, a slice of numbers, None or Ellipsis."""
    if isinstance(item, slice):
        return not any(isinstance(n, Expr) for n in (item.start, item.stop, item.step))
    return item is None or item is Ellipsis or type(item) is int


def _number(item: Any) -> bool:
    """Return whether an index removes its dimension."""
    return isinstance(item, int) or (isinstance(item, Expr) and not item.shape)


def _check(item: Any) -> None:
    if not isinstance(item, Expr) or item.dtype in (torch.int64, torch.int32):
        return
    raise IndexError(f"numbers of {item.dtype} are no indices")


def _spelled_out(x: Expr, items: list[Any]) -> list[Any]:
    """Return one index per dimension of `x`: the ellipsis is replaced by slices."""
    taken = sum(i is not None and i is not Ellipsis for i in items)
    dots = [k for k, i in enumerate(items) if i is Ellipsis]
    if taken > len(x.shape) or len(dots) > 1:
        raise IndexError(f"{taken} indices and {len(dots)} ellipses for the shape {x.shape}")
    if dots:
        items[dots[0] : dots[0] + 1] = [slice(None)] * (len(x.shape) - taken)
    return items


def _step(x: Expr, dim: int, item: Any) -> Expr:
    """Apply one index that is not a tensor of several elements."""
    if item is None:
        return reshape(x, (*x.shape[:dim], 1, *x.shape[dim:]))
    if isinstance(item, Expr):
        return x if item.shape else _chosen(x, dim, item)
    size = x.shape[dim]
    if isinstance(item, int):
        if not -size <= item < size:
            raise IndexError(f"index {item} is out of bounds for dimension {dim} of {x.shape}")
        return _at(x, dim, item % size)
    if item.step is not None and item.step <= 0:
        raise ValueError(f"torch has no slices with the step {item.step}")
    return cut(x, dim, *item.indices(size))


def _at(x: Expr, dim: int, place: int) -> Expr:
    return reshape(cut(x, dim, place, place + 1), (*x.shape[:dim], *x.shape[dim + 1 :]))


def _chosen(x: Expr, dim: int, place: Expr) -> Expr:
    """Return the part of `x` at one position along `dim`; the position is a value."""
    place = make("where", make("lt", place, 0), place + x.shape[dim], place)
    if dim == 0 and not x.axes:
        rows = reshape(x, (x.shape[0], math.prod(x.shape[1:])))
        return reshape(make("take", rows, place, padding_idx=None), x.shape[1:])
    picked = _call(torch.index_select, x, dim, reshape(place, (1,)))
    return reshape(picked, (*x.shape[:dim], *x.shape[dim + 1 :]))


def _picked(x: Expr, picks: dict[int, Expr]) -> Expr:
    index: Sequence[Any] = [picks.get(d, slice(None)) for d in range(max(picks) + 1)]
    return _call(torch.Tensor.__getitem__, x, tuple(index))


def _call(function: Any, *args: Any) -> Expr:
    """Add a call of a torch function as an opaque node."""
    ir = args[0].ir
    return opaque(ir, function, args, {}, verdict(function, args, {}, ir.here))
