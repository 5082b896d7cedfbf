"""Torch functions without a handler: one opaque node, which torch itself runs."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from graphnn.errors import UnsupportedError
from graphnn.ir.graph import IR
from graphnn.ops.builder import Expr, Number
from graphnn.ops.registry import build
from graphnn.ops.torch.inference import by_examples


class Arrange:
    """Puts tensors back into the arguments of an opaque call."""

    def __init__(self, leaves: list[Any], spec: Any, places: list[int]):
        self.leaves, self.spec, self.places = leaves, spec, places

    def __call__(self, tensors: Any) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor
        return tree_unflatten(leaves, self.spec)


def opaque(ir: IR, function: Any, args: Any, kwargs: Any, result: Any) -> Any:
    """Add a node that torch runs by vmap, example by example; `result` is its result on meta."""
    leaves, spec = tree_flatten((args, kwargs))
    places = [i for i, x in enumerate(leaves) if isinstance(x, Expr)]
    operands = [leaves[i] for i in places]
    arrange = Arrange([None if isinstance(x, Expr) else x for x in leaves], spec, places)
    name = getattr(function, "__name__", str(function))
    _tensors_only(result, name, ir.here)
    by_examples(function, args, kwargs, result, ir.here)
    parts, form = tree_flatten(result)
    made = {k: r for k, r in enumerate(parts) if isinstance(r, torch.Tensor)}
    outs = list(made.values())
    node = build(
        ir,
        "opaque",
        [x.id for x in operands],
        {
            "function": function,
            "arrange": arrange,
            "called": name,
            "outs": tuple((tuple(r.shape), r.dtype) for r in outs),
        },
        shape=(),
        dtype=next((r.dtype for r in outs if r.dtype.is_floating_point), outs[0].dtype),
        name=ir.here[0] or name,
    )
    for i, (k, r) in enumerate(made.items()):
        pick = build(ir, "pick", (node,), {"which": i}, shape=tuple(r.shape), dtype=r.dtype)
        parts[k] = Expr(ir, pick)
    return tree_unflatten(parts, form)


def _tensors_only(result: Any, name: str, here: Any) -> None:
    """Raise UnsupportedError unless the result has tensors; numbers may be among them."""
    parts = tree_flatten(result)[0]
    plain = (torch.Tensor, type(None), *get_args(Number))
    if not all(isinstance(r, plain) for r in parts) or not any(
        isinstance(r, torch.Tensor) for r in parts
    ):
        raise UnsupportedError(
            f"'{name}' does not return tensors",
            site=here[1],
            got=type(result).__name__,
            wanted="a tensor, or a tuple or list of tensors",
            fix="call it outside the graph, or on plain numbers",
        )
