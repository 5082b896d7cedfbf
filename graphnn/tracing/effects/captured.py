"""The nodes of tensors that a graph reads: parameters, buffers and constants."""

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
    """The node of a parameter, a buffer or a constant tensor; each has one node."""
    if id(tensor) in graph.written:
        return Expr(graph.ir, graph.written[id(tensor)].id)
    key = graph.known.get(id(tensor))
    if key is None:
        return _constant(graph, tensor)
    if key not in graph.sources:
        graph.sources[key] = _source_of(graph, tensor, "parameter", key, key)
    return Expr(graph.ir, graph.sources[key])


def _constant(graph: GraphLike, tensor: torch.Tensor) -> Expr:
    """The node of a tensor that is not a parameter.

    If the tensor was made during the trace, the node holds a copy; else it reads the tensor at
    every call. Raises UnsupportedError for a tensor that was computed from parameters.
    """
    if isinstance(tensor, nn.Parameter):
        raise UnsupportedError(
            "the graph uses a parameter that it does not own",
            site=user_site(),
            got=f"a parameter of shape {tuple(tensor.shape)}",
            wanted="parameters of the compiled module, or of one registered with g.module",
            fix="create the module in __init__, or register it: net = g.module('net', net)",
        )
    if tensor.grad_fn is not None:
        raise UnsupportedError(
            "the graph uses a tensor that was computed from parameters outside the graph",
            site=user_site(),
            got=f"the result of {tensor.grad_fn.name()}, of shape {tuple(tensor.shape)}, which "
            "would not change while the parameters train",
            wanted="a parameter itself, or a result computed from it in the graph",
            fix="compute it in graph(self, g), or within `with g:` on a bare Graph",
        )
    if graph.tracer is not None and id(tensor) in graph.tracer.user_random:
        random.refuse_generator()
    made = graph.tracer is not None and id(tensor) in graph.tracer.made
    index = (id(tensor), inplace.version(tensor) if made else None)
    if index not in graph.sources:
        with torch.inference_mode(False):
            constant = tensor.clone() if made else tensor
        graph.constants[id(constant)] = constant
        graph.keep_alive.append(tensor)
        graph.sources[index] = _source_of(graph, tensor, "tensor", id(constant), "")
        if made:
            graph.made_nodes.add(graph.sources[index])
    return Expr(graph.ir, graph.sources[index])


def _source_of(graph: GraphLike, tensor: torch.Tensor, op: str, key: Any, name: str) -> int:
    """A new source node for a tensor."""
    signature: dict[str, Any] = {
        "shape": tuple(tensor.shape),
        "dtype": tensor.dtype,
        "axes": frozenset(),
    }
    return build(graph.ir, op, (), {"key": key}, name=name, **signature)


def lookup(graph: GraphLike, node: Any) -> torch.Tensor:
    """The current tensor of a source node."""
    key = node.attrs["key"]
    if node.op == "tensor":
        return graph.constants[key]
    path, _, name = key.rpartition(".")
    return getattr(graph.owner.get_submodule(path), name)  # type: ignore[no-any-return]


def sample(graph: GraphLike, i: int) -> torch.Tensor:
    """A sample of a random value, from which a parameter starts."""
    ir = keep(graph.ir, reachable(graph.ir, [i]))
    with torch._C.DisableTorchFunction():
        run = Reference(ir, lambda n: lookup(graph, n), {}, {}, {}, {}, torch.device("cpu"))
        return run.value(ir[i], {}).clone()
