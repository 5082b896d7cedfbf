"""Operations that move elements without changing them: views, joins and row look-ups."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.ops.builder import Expr, make, reshape
from graphnn.ops.registry import contracted, row


def run_slice(x: torch.Tensor, dim: int, start: int, stop: int, step: int) -> torch.Tensor:
    index = [slice(None)] * x.dim()
    index[dim] = slice(start, stop, step)
    return x[tuple(index)]


def run_pad(x: torch.Tensor, dim: int, start: int, step: int, size: int) -> torch.Tensor:
    """Return `size` zeros along `dim`, with `x` at the positions start, start + step, …"""
    shape = list(x.shape)
    shape[dim] = size
    stop = start + step * x.shape[dim]
    places = torch.arange(start, stop, step, device=x.device)
    return x.new_zeros(shape).index_copy(dim, places, x)


def _inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


def _slice_grad(g: Expr, y: Expr, x: Expr) -> Any:
    a = y.node.attrs
    return (make("pad", g, dim=a["dim"], start=a["start"], step=a["step"], size=x.shape[a["dim"]]),)


def _pad_grad(g: Expr, y: Expr, x: Expr) -> Any:
    a, n = y.node.attrs, x.shape[y.node.attrs["dim"]]
    stop = a["start"] + (n - 1) * a["step"] + 1
    return (make("slice", g, dim=a["dim"], start=a["start"], stop=stop, step=a["step"]),)


def _cat_grad(g: Expr, y: Expr, *xs: Expr) -> Any:
    dim, start, parts = y.node.attrs["dim"], 0, []
    for x in xs:
        stop = start + x.shape[dim]
        parts.append(make("slice", g, dim=dim, start=start, stop=stop, step=1))
        start = stop
    return parts


row(
    "reshape",
    "view",
    lambda x, shape: x.reshape(shape),
    grad=lambda g, y, x: (reshape(g, x.shape),),
)
row(
    "permute",
    "view",
    lambda x, dims: x.permute(dims),
    grad=lambda g, y, x: (make("permute", g, dims=_inverse(y.node.attrs["dims"])),),
)
row("expand", "view", lambda x, shape: x.expand(shape), grad=lambda g, y, x: (g,))
row("slice", "view", run_slice, grad=_slice_grad)
row(
    "flip",
    "view",
    lambda x, dim: x.flip(dim),
    grad=lambda g, y, x: (make("flip", g, dim=y.node.attrs["dim"]),),
)
row("pad", "join", run_pad, grad=_pad_grad)
row("cat", "join", lambda *xs, dim: torch.cat(xs, dim), grad=_cat_grad)


def _take(table: torch.Tensor, index: torch.Tensor, padding_idx: int | None) -> torch.Tensor:
    if table.device.type == "meta":
        return table.new_empty((*index.shape, *table.shape[1:]))
    return F.embedding(index, table, padding_idx)


def _take_grad(g: Expr, y: Expr, table: Expr, index: Expr) -> Any:
    return (
        make(
            "put_rows",
            g,
            index,
            rows=table.shape[0],
            padding_idx=y.node.attrs["padding_idx"],
            contract=(g.axes | index.axes) - table.axes,
        ),
        None,
    )


def run_put_rows(
    g: torch.Tensor, index: torch.Tensor, rows: int, padding_idx: int | None
) -> torch.Tensor:
    """Return the rows of `g` summed at their `index`: the derivative of a row look-up."""
    flat = g.reshape(index.numel(), g.shape[index.dim() :].numel())
    out = flat.new_zeros(rows, flat.shape[1]).index_add(0, index.reshape(-1), flat)
    if padding_idx is not None:
        out = out.index_fill(0, torch.full((1,), padding_idx, device=g.device), 0)
    return out.reshape(rows, *g.shape[index.dim() :])


row("take", "rows", _take, grad=_take_grad)


def _put_grad(g: Expr, y: Expr, x: Expr, index: Expr) -> Any:
    rows, padding = make("take", g, index, padding_idx=None), y.node.attrs["padding_idx"]
    if padding is None:
        return rows, None
    real = make("ne", index, padding)
    real = reshape(real, (*index.shape, *[1] * (len(rows.shape) - len(index.shape))))
    return make("where", real, rows, 0.0), None


row(
    "put_rows",
    "rows",
    run_put_rows,
    grad=_put_grad,
    axes=contracted,
    private=frozenset({"contract"}),
)


def take_each(table: torch.Tensor, index: torch.Tensor, axes: int, rank: int) -> torch.Tensor:
    """Look rows up in tables of `rank` that differ along the first `axes` dimensions."""
    table = table.reshape(*[1] * (axes + rank - table.dim()), *table.shape)
    lead = torch.broadcast_shapes(table.shape[:axes], index.shape[:axes])
    rows = table.reshape(*table.shape[: axes + 1], -1).expand(*lead, table.shape[axes], -1)
    at = index.expand(*lead, *index.shape[axes:]).reshape(*lead, -1, 1)
    found = rows.gather(axes, at.expand(*at.shape[:-1], rows.shape[-1]))
    return found.reshape(*lead, *index.shape[axes:], *table.shape[axes + 1 :])


def put_each(
    g: torch.Tensor, index: torch.Tensor, rows: int, padding_idx: int | None, kept: list[int]
) -> torch.Tensor:
    """Return the derivative of `take_each`, for tables that differ along the dimensions `kept`."""
    g, index = (x.movedim(kept, list(range(len(kept)))) for x in (g, index))
    lead = index.shape[: len(kept)]
    count = math.prod(lead)
    at = index.reshape(count, -1) + torch.arange(count, device=g.device).unsqueeze(1) * rows
    out = run_put_rows(g.reshape(at.numel(), -1), at.reshape(-1), count * rows, None)
    out = out.reshape(*lead, rows, *g.shape[index.dim() :])
    if padding_idx is not None:
        out = out.index_fill(len(lead), torch.full((1,), padding_idx, device=g.device), 0)
    return out
