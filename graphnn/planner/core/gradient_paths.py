"""Which values gradients flow between: which inputs get a gradient, and which get None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphnn.ir.graph import IR, Node

Edges = dict[int, list[int]]


def gradient_edges(ir: IR) -> Edges:
    """For each node that can have a gradient, the nodes that its gradient flows on to."""
    floating = {n.id for n in ir if n.dtype.is_floating_point}
    return {
        node.id: [i for i in _differentiated(ir, node) if i in floating]
        for node in ir
        if node.id in floating
    }


def _differentiated(ir: IR, node: Node) -> Sequence[int]:
    """The nodes that a node passes its gradient to, whatever their dtype."""
    if node.op == "detach":
        return ()
    if node.op == "pick" and ir[node.inputs[0]].op == "attend":
        return _picked(ir[node.inputs[0]], node.attrs["which"])
    return [*node.inputs, *([ir.closings[node.id]] if node.id in ir.closings else [])]


def _picked(attend: Node, which: int) -> list[int]:
    """The inputs that one result of an attention depends on: other results read other inputs."""
    part = attend.attrs["part"]
    results = [*part.results, getattr(part, "score", -1)]  # after them, the scores' logsumexp
    reach = between(part.ir, part.reads, [results[which]])
    return [i for i, read in zip(attend.inputs, part.reads, strict=True) if read in reach]


def between(ir: IR, sources: Iterable[int], results: Iterable[int]) -> set[int]:
    """The nodes through which gradients flow from `results` to `sources`, both included."""
    down = gradient_edges(ir)
    up: Edges = {i: [] for i in down}
    for i, reads in down.items():
        for j in reads:
            up[j].append(i)
    return _closure(down, results) & _closure(up, sources)


def outputs_reached(ir: IR) -> dict[int, frozenset[str]]:
    """For each node, the outputs whose gradients reach it."""
    down = gradient_edges(ir)
    found: dict[int, frozenset[str]] = dict.fromkeys(ir.nodes, frozenset())
    for name, i in ir.outputs.items():
        for j in _closure(down, [i]):
            found[j] |= {name}
    return found


def _closure(edges: Mapping[int, list[int]], start: Iterable[int]) -> set[int]:
    """The nodes that edges lead to from `start`, these included."""
    found = {i for i in start if i in edges}
    todo = list(found)
    while todo:
        more = {*edges[todo.pop()]} - found
        found |= more
        todo += more
    return found
