"""Operations without operands, delays, and torch functions without a row of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from graphnn.ir.graph import BATCH, IR
from graphnn.ops.builder import Expr
from graphnn.ops.registry import build, row


def _given_axes(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
    raise AssertionError("the axes of a source are given when it is built")


for _name in (
    "input",
    "parameter",
    "tensor",
    "const",
    "index",
    "size",
    "length",
    "random",
    "given",
):
    row(_name, "source", axes=_given_axes)
row("delay", "delay", axes=_given_axes)


def index_of(ir: IR, axis: str) -> Expr:
    """Return the position along an axis: 0, 1, 2 …"""
    return Expr(
        ir,
        build(
            ir,
            "index",
            (),
            {"axis": axis},
            shape=(),
            dtype=torch.int64,
            axes=frozenset({axis}),
            name="",
        ),
    )


def size_of(ir: IR, axis: str) -> Expr:
    """Return the number of positions of an axis, padding included."""
    none: frozenset[str] = frozenset()
    node = build(ir, "size", (), {"axis": axis}, shape=(), dtype=torch.int64, axes=none, name="")
    return Expr(ir, node)


def length_of(ir: IR, axis: str) -> Expr:
    """Return the number of positions of an axis that each example has."""
    every = frozenset({BATCH})
    node = build(ir, "length", (), {"axis": axis}, shape=(), dtype=torch.int64, axes=every, name="")
    return Expr(ir, node)


def call_opaque(
    *tensors: torch.Tensor, function: Any, arrange: Any, kwargs: Any = None
) -> list[torch.Tensor]:
    """Call a torch function without a row; `arrange` puts the tensors back into its arguments."""
    args, keywords = arrange(tensors)
    return [x for x in tree_leaves(function(*args, **keywords)) if isinstance(x, torch.Tensor)]


def call_vjp(
    *tensors: torch.Tensor,
    function: Any,
    arrange: Any,
    used: tuple[int, ...],
    wanted: tuple[int, ...],
) -> list[torch.Tensor]:
    """Return the gradients of the inputs `wanted` of an opaque call.

    The first tensors are the gradients of its results `used`; the inputs follow.
    """
    grads, args = tensors[: len(used)], tensors[len(used) :]

    def run(*moving: torch.Tensor) -> Any:
        full = list(args)
        for place, tensor in zip(wanted, moving, strict=True):
            full[place] = tensor
        results = call_opaque(*full, function=function, arrange=arrange)
        return tuple(results[k] for k in used)

    # as in a backward that keeps its graph: otherwise torch's short cut for det is wrong under vmap
    with torch.enable_grad():
        pull = torch.func.vjp(run, *[args[i] for i in wanted])[1]
        return list(pull(tuple(grads)))


def pull_of(attrs: Mapping[str, Any]) -> Callable[..., list[torch.Tensor]]:
    """Return the derivative of an opaque call as a function, for an opaque call in turn."""
    kept = {k: attrs[k] for k in ("function", "arrange", "used", "wanted")}
    return functools.partial(call_vjp, **kept)


def in_order(tensors: Sequence[torch.Tensor]) -> tuple[Sequence[torch.Tensor], dict[str, Any]]:
    """Return the arguments of a function that takes exactly these tensors."""
    return tensors, {}


row("opaque", "opaque", call_opaque)
row("vjp", "opaque", call_vjp)


def _picked_axes(operands: Sequence[frozenset[str]], attrs: dict[str, Any]) -> frozenset[str]:
    """Return the given axes, or those of the operand; final states lack the axis of the loop."""
    known: frozenset[str] = attrs.get("axes", operands[0] - {attrs.get("without")})
    return known


row(
    "pick",
    "pick",
    lambda results, which: results[which],
    axes=_picked_axes,
    private=frozenset({"without", "axes", "narrow"}),
)
