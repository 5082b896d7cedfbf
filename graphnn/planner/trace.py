"""trace: run the user's `graph(g)` and keep what it drew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from graphnn.errors import GraphError
from graphnn.graph import Feedback, Graph
from graphnn.ir import IR


@dataclass
class Trace:
    """A drawn graph, the constant tensors it uses, by the key of their nodes, and what is fed back
    when it generates."""

    ir: IR
    constants: dict[int, torch.Tensor]
    feedback: tuple[Feedback, ...] = ()


def trace(source: nn.Module | Graph) -> Trace:
    """The graph of a module with a `graph(g)` method, or of a `Graph` as it stands."""
    if isinstance(source, Graph):
        ir = retyped(source.ir, source.floating())
        return Trace(ir, dict(source.constants), tuple(source.feedbacks))
    draw: Any = getattr(source, "graph", None)
    if not callable(draw):
        raise GraphError(
            f"{type(source).__name__} cannot be compiled",
            got=f"{type(source).__name__}, without a graph(self, g) method",
            wanted="a graphnn.Graph, or a module whose graph(self, g) draws one",
            fix="add `def graph(self, g): …` with g.input(...) and g.output(...)",
        )
    g = Graph(type(source).__name__.lower(), source)
    draw(g)
    return Trace(g.ir.copy(), dict(g.constants), tuple(g.feedbacks))


def retyped(ir: IR, floating: torch.dtype) -> IR:
    """A graph drawn once, in the floating dtype that its parameters have by now."""
    new = ir.copy()
    if floating == ir.floating:
        return new
    new.floating = floating
    for i, node in ir.nodes.items():
        attrs = dict(node.attrs)
        if attrs.get("dtype") == ir.floating:
            attrs["dtype"] = floating
        dtype = floating if node.dtype == ir.floating else node.dtype
        new.nodes[i] = replace(node, dtype=dtype, attrs=attrs)
    return new
