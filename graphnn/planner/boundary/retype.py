"""Retyping: a graph that was traced once, in the floating dtype that its parameters have now.

Stated dtypes stay (those of inputs and states, and casts). Values that follow the model's dtype
change, and the dtypes of computed values are inferred again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from graphnn.errors import DtypeError
from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS, infer


def in_dtype(ir: IR, floating: torch.dtype, owner: nn.Module) -> IR:
    """The graph in another floating dtype. Raises DtypeError if a state no longer fits."""
    new = ir.copy()
    if floating == ir.floating:
        return new
    new.floating, new.nodes = floating, {}
    tensors = {**dict(owner.named_parameters()), **dict(owner.named_buffers())}
    for node in ir:
        attrs = _outs(new, node)
        dtype = _dtype(new, node, attrs, ir.floating, tensors)
        new.nodes[node.id] = replace(node, dtype=dtype, attrs=attrs)
    for delay, after in new.closings.items():
        _agree(new[delay], new[after])
    return new


def _dtype(
    new: IR,
    node: Node,
    attrs: dict[str, Any],
    before: torch.dtype,
    tensors: dict[str, torch.Tensor],
) -> torch.dtype:
    if "stated" in attrs:
        return node.dtype
    if node.op == "parameter":
        return tensors[attrs["key"]].dtype
    if node.op == "delay" and new.closings.get(node.id) in new.nodes:
        return new[new.closings[node.id]].dtype
    if node.op == "opaque":
        return next((d for _, d in attrs["outs"] if d.is_floating_point), attrs["outs"][0][1])
    if node.op == "pick":
        return new[node.inputs[0]].attrs["outs"][attrs["which"]][1]  # type: ignore[no-any-return]
    if node.inputs and node.op != "delay" and OPS[node.op].run is not None:
        return infer(OPS[node.op], new.operands(node), attrs)[1]
    if node.op in ("tensor", "index", "size", "length"):
        return node.dtype
    follows = new[node.inputs[0]].dtype if node.op in FOLLOWS else new.floating
    return follows if node.dtype == before else node.dtype


FOLLOWS = frozenset({"rename", "along"})


def _outs(new: IR, node: Node) -> dict[str, Any]:
    """A node's attributes; an opaque call's with the dtypes that it returns now."""
    if node.op != "opaque":
        return node.attrs
    given = [torch.empty(x.shape, dtype=x.dtype, device="meta") for x in new.operands(node)]
    args, kwargs = node.attrs["arrange"](given)
    result = node.attrs["function"](*args, **kwargs)
    parts = [result] if isinstance(result, torch.Tensor) else list(result)
    return {**node.attrs, "outs": tuple((tuple(r.shape), r.dtype) for r in parts)}


def _agree(state: Node, after: Node) -> None:
    if state.dtype != after.dtype:
        raise DtypeError(
            f"the next value of state '{state.label}' has another dtype than the state, now that "
            "the model was moved",
            node=state.label,
            site=state.site,
            got=f"{after.dtype} from {after.label}",
            wanted=f"{state.dtype}",
            fix=f"cast it: {state.label}.next = value.type_as({state.label})",
        )
