"""Torch's functions of shape as primitives: views, joins, indexing and row look-ups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.torch.registry import guards, names


def _sizes(sizes: Any) -> tuple[int, ...]:
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else tuple(sizes)


@names("reshape", "view")
def _reshape(x: Expr, *sizes: Any, shape: Any = None) -> Any:
    wanted = list(_sizes(sizes) if shape is None else shape)
    if wanted and not isinstance(wanted[0], int):
        return NotImplemented
    if -1 in wanted:
        rest = math.prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = math.prod(x.shape) // rest if rest else 0
    return reshape(x, wanted)


@names("view_as", "reshape_as")
def _view_as(x: Expr, other: Expr) -> Any:
    return reshape(x, other.shape)


@names("flatten")
def _flatten(x: Expr, start_dim: int = 0, end_dim: int = -1) -> Any:
    rank = max(len(x.shape), 1)
    a, b = start_dim % rank, end_dim % rank
    return reshape(x, (*x.shape[:a], math.prod(x.shape[a : b + 1]), *x.shape[b + 1 :]))


@names("unflatten")
def _unflatten(x: Expr, dim: int, sizes: Sequence[int]) -> Any:
    dim %= len(x.shape)
    known = math.prod(n for n in sizes if n != -1)
    parts = [x.shape[dim] // known if n == -1 else n for n in sizes]
    return reshape(x, (*x.shape[:dim], *parts, *x.shape[dim + 1 :]))


@names("unsqueeze")
def _unsqueeze(x: Expr, dim: int) -> Any:
    dim %= len(x.shape) + 1
    return reshape(x, (*x.shape[:dim], 1, *x.shape[dim:]))


@names("squeeze")
def _squeeze(x: Expr, dim: Any = None) -> Any:
    rank = len(x.shape)
    chosen = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = {d % rank for d in chosen} if rank else set()
    return reshape(x, [n for i, n in enumerate(x.shape) if not (i in dims and n == 1)])


@names("permute")
def _permute(x: Expr, *dims: Any) -> Any:
    order = tuple(d % len(x.shape) for d in _sizes(dims))
    return x if order == tuple(range(len(order))) else make("permute", x, dims=order)


@names("transpose", "swapaxes", "swapdims")
def _transpose(x: Expr, a: int, b: int) -> Any:
    order = list(range(len(x.shape)))
    order[a], order[b] = order[b], order[a]
    return _permute(x, order)


@names("t")
def _t(x: Expr) -> Any:
    return x if len(x.shape) < 2 else _transpose(x, 0, 1)


@names("expand", "broadcast_to")
def _expand(x: Expr, *sizes: Any) -> Any:
    wanted = list(_sizes(sizes))
    lead = len(wanted) - len(x.shape)
    wanted = [x.shape[i - lead] if n == -1 else n for i, n in enumerate(wanted)]
    return x if tuple(wanted) == x.shape else make("expand", x, shape=tuple(wanted))


@names("expand_as")
def _expand_as(x: Expr, other: Expr) -> Any:
    return _expand(x, other.shape)


@names("contiguous", "clone", "__deepcopy__")
def _same(x: Expr, *_: Any, **__: Any) -> Any:
    return x


def cut(x: Expr, dim: int, start: int, stop: int, step: int = 1) -> Expr:
    """Return `x[start:stop:step]` along `dim`, or `x` itself if that is all of it."""
    whole = start == 0 and stop >= x.shape[dim] and step == 1
    return x if whole else make("slice", x, dim=dim, start=start, stop=stop, step=step)


@names("narrow")
def _narrow(x: Expr, dim: int, start: int, length: int) -> Any:
    dim %= len(x.shape)
    return cut(x, dim, start, start + length)


@names("select")
def _select(x: Expr, dim: int, index: int) -> Any:
    dim %= len(x.shape)
    index = range(x.shape[dim])[index]
    return reshape(cut(x, dim, index, index + 1), (*x.shape[:dim], *x.shape[dim + 1 :]))


@names("split", "split_with_sizes")
def split(x: Expr, size: Any, dim: int = 0) -> Any:
    """Return consecutive parts of the given size or sizes."""
    dim %= len(x.shape)
    total = x.shape[dim]
    sizes = [min(size, total - i) for i in range(0, total, size)] if isinstance(size, int) else size
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(cut(x, dim, a, a + n) for a, n in zip(starts, sizes, strict=True))


@names("chunk")
def chunk(x: Expr, chunks: int, dim: int = 0) -> Any:
    """Return `chunks` consecutive parts; the last is smaller if the size does not divide."""
    return split(x, -(-x.shape[dim % len(x.shape)] // chunks), dim)


@names("unbind")
def _unbind(x: Expr, dim: int = 0) -> Any:
    return tuple(_select(x, dim, i) for i in range(x.shape[dim % len(x.shape)]))


@names("flip")
def _flip(x: Expr, *given: Any, dims: Any = ()) -> Any:
    for dim in _sizes(given) if given else _sizes((dims,)):
        x = make("flip", x, dim=dim % len(x.shape))
    return x


@names("roll")
def _roll(x: Expr, shifts: Any, dims: Any = None) -> Any:
    if not isinstance(shifts, int) or not isinstance(dims, int):
        return NotImplemented
    dim, n = dims % len(x.shape), x.shape[dims]
    shift = shifts % n
    if not shift:
        return x
    return make("cat", cut(x, dim, n - shift, n), cut(x, dim, 0, n - shift), dim=dim)


@names("cat", "concat", "concatenate")
def _cat(tensors: Sequence[Expr], dim: int = 0) -> Any:
    # torch leaves out empty vectors, whatever the rank of the others
    parts = [x for x in tensors if x.shape != (0,)] or list(tensors)
    return (
        parts[0] if len(parts) == 1 else make("cat", *parts, dim=dim % len(parts[0].shape or (1,)))
    )


@names("stack")
def _stack(tensors: Sequence[Expr], dim: int = 0) -> Any:
    dim %= len(tensors[0].shape) + 1
    return _cat([_unsqueeze(x, dim) for x in tensors], dim)


@names("column_stack")
def _column_stack(tensors: Sequence[Expr]) -> Any:
    columns = [x if len(x.shape) > 1 else reshape(x, (math.prod(x.shape), 1)) for x in tensors]
    return _cat(columns, 1)


@names("select_scatter")
def _select_scatter(x: Expr, src: Expr, dim: int, index: int) -> Any:
    dim %= len(x.shape)
    place = range(x.shape[dim])[index]
    parts = [
        cut(x, dim, 0, place),
        _unsqueeze(src, dim),
        cut(x, dim, place + 1, x.shape[dim]),
    ]
    return make("cat", *[p for p in parts if p.shape[dim]], dim=dim)


@guards("embedding", "embedding_bag")
def _no_renorm(*_: Any, **named: Any) -> None:
    """Refuse options that change the weight, or that depend on all indices of a batch."""
    for option in ("max_norm", "scale_grad_by_freq", "sparse"):
        if named.get(option) not in (None, False):
            raise UnsupportedError(
                f"an embedding with {option} is more than a function of one example",
                site=user_site(),
                got=f"{option}={named[option]!r}",
                wanted="an embedding that only reads its weight",
                fix=f"leave {option} out"
                + ("; renormalise the weight after each optimiser step" * (option == "max_norm")),
            )


@names("embedding")
def _embedding(a: Any, b: Any, padding_idx: int | None = None, *rest: Any, **_: Any) -> Any:
    """Both orders: F.embedding(index, weight) and torch.embedding(weight, index)."""
    index, weight = (b, a) if a.dtype.is_floating_point else (a, b)
    if weight.axes or any(rest):
        return NotImplemented
    padding = None if padding_idx is None or padding_idx == -1 else padding_idx % weight.shape[0]
    return make("take", weight, index, padding_idx=padding)


@names("embedding_bag")
def _embedding_bag(
    index: Expr,
    weight: Expr,
    offsets: Any = None,
    *_: Any,
    mode: str = "mean",
    per_sample_weights: Expr | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
    **__: Any,
) -> Any:
    """Sum or average the rows of each bag; a bag is a row of indices."""
    odd = offsets is not None or per_sample_weights is not None or padding_idx is not None
    odd = odd or len(index.shape) != 2
    if odd or mode not in ("mean", "sum") or weight.axes or index.dtype.is_floating_point:
        return NotImplemented
    total = make("sum", make("take", weight, index, padding_idx=None), dims=(1,))
    return total if mode == "sum" else total * (1.0 / index.shape[1])


@names("one_hot")
def _one_hot(x: Expr, num_classes: int = -1) -> Any:
    if num_classes < 1:
        return NotImplemented
    wide = _unsqueeze(x, len(x.shape))
    columns = [make("eq", wide, i) for i in range(num_classes)]
    return make("cast", _cat(columns, len(x.shape)), dtype=torch.int64) if columns else x
