"""Tensors that a graph reads: parameters and buffers, and those that are constants of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphnn.backends.reference import Reference
from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site
from graphnn.ops.builder import Expr
from graphnn.ops.registry import build
from graphnn.planner.core.rewrite import keep, reachable
from graphnn.tracing.effects import inplace, random
from graphnn.tracing.effects.symbolic import GraphLike


def node_of(graph: GraphLike, tensor: torch.Tensor) -> Expr:
    """The node of a parameter, a buffer, or a constant tensor; one node each."""
    if id(tensor) in graph.written:
        return Expr(graph.ir, graph.written[id(tensor)].id)
    key = graph.known.get(id(tensor))
    if key is None:
        return _constant(graph, tensor)
    if key not in graph.sources:
        graph.sources[key] = _source_of(graph, tensor, "parameter", key, key)
    return Expr(graph.ir, graph.sources[key])


def _constant(graph: GraphLike, tensor: torch.Tensor) -> Expr:
    """The node of a tensor that is no parameter: as it is if it was made in the graph, else
    whatever it holds when the graph is called."""
    if isinstance(tensor, nn.Parameter):
        raise UnsupportedError(
            "a parameter that this graph does not own is used",
            site=user_site(),
            got=f"a parameter of shape {tuple(tensor.shape)}",
            wanted="parameters of the compiled module, or of one registered with g.module",
            fix="make the module in __init__, or wrap it: net = g.module('net', net)",
        )
    if tensor.grad_fn is not None:
        raise UnsupportedError(
            "a tensor computed from parameters outside the graph is used",
            site=user_site(),
            got=f"the result of {tensor.grad_fn.name()}, of shape {tuple(tensor.shape)}, which "
            "would stay as it is now while the parameters train",
            wanted="a parameter as it stands, or what is computed of it in the graph",
            fix="compute it in graph(self, g), or within `with g:` on a bare Graph",
        )
    if graph.tracer is not None and id(tensor) in graph.tracer.user_random:
        random.refuse_generator()
    made = graph.tracer is not None and id(tensor) in graph.tracer.made
    index = (id(tensor), inplace.version(tensor) if made else None)
    if index not in graph.sources:
        with torch.inference_mode(False):
            kept = tensor.clone() if made else tensor
        graph.constants[id(kept)] = kept
        graph.keep_alive.append(tensor)
        graph.sources[index] = _source_of(graph, tensor, "tensor", id(kept), "")
        if made:
            graph.made_nodes.add(graph.sources[index])
    return Expr(graph.ir, graph.sources[index])


def _source_of(graph: GraphLike, tensor: torch.Tensor, op: str, key: Any, name: str) -> int:
    form: dict[str, Any] = {
        "shape": tuple(tensor.shape),
        "dtype": tensor.dtype,
        "axes": frozenset(),
    }
    return build(graph.ir, op, (), {"key": key}, name=name, **form)


def lookup(graph: GraphLike, node: Any) -> torch.Tensor:
    """The tensor of a node that holds one, as it is now."""
    key = node.attrs["key"]
    if node.op == "tensor":
        return graph.constants[key]
    path, _, name = key.rpartition(".")
    return getattr(graph.owner.get_submodule(path), name)  # type: ignore[no-any-return]


def realised(graph: GraphLike, i: int) -> torch.Tensor:
    """The numbers of an open value, drawn now: what a parameter starts from."""
    ir = keep(graph.ir, reachable(graph.ir, [i]))
    with torch._C.DisableTorchFunction():
        run = Reference(ir, lambda n: lookup(graph, n), {}, {}, {}, {}, torch.device("cpu"))
        return run.value(ir[i], {}).clone()
