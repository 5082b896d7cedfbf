"""Which values gradients flow between: what autograd is to give a gradient, and what None."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from graphnn.ir.graph import IR, Node

Edges = dict[int, list[int]]


def flows(ir: IR) -> Edges:
    """Where the gradient of each node that can have one goes on to."""
    able = {n.id for n in ir if n.dtype.is_floating_point}
    found: Edges = {}
    for node in ir:
        if node.id in able:
            found[node.id] = [i for i in _read(ir, node) if i in able]
    return found


def _read(ir: IR, node: Node) -> Sequence[int]:
    """What a node's gradient goes to."""
    if node.op == "detach":
        return ()
    if node.op == "pick" and ir[node.inputs[0]].op == "attend":
        return _picked(ir[node.inputs[0]], node.attrs["which"])
    return [*node.inputs, *([ir.closings[node.id]] if node.id in ir.closings else [])]


def _picked(attend: Node, which: int) -> list[int]:
    """What one result of an attention reads: the values of another are nothing to it."""
    part = attend.attrs["part"]
    made = [*part.results, getattr(part, "score", -1)]  # behind results, the scores' logsumexp
    reach = between(part.ir, part.reads, [made[which]])
    return [i for i, read in zip(attend.inputs, part.reads, strict=True) if read in reach]


def between(ir: IR, sources: Iterable[int], results: Iterable[int]) -> set[int]:
    """The nodes through which a gradient flows from `results` to `sources`, these among them."""
    down = flows(ir)
    up: Edges = {i: [] for i in down}
    for i, reads in down.items():
        for j in reads:
            up[j].append(i)
    return _closure(down, results) & _closure(up, sources)


def feeding(ir: IR) -> dict[int, frozenset[str]]:
    """For each node, the outputs whose gradients come to it."""
    down = flows(ir)
    found: dict[int, frozenset[str]] = dict.fromkeys(ir.nodes, frozenset())
    for name, i in ir.outputs.items():
        for j in _closure(down, [i]):
            found[j] |= {name}
    return found


def _closure(edges: Mapping[int, list[int]], begin: Iterable[int]) -> set[int]:
    """All that edges lead to from where one begins."""
    found = {i for i in begin if i in edges}
    todo = list(found)
    while todo:
        more = {*edges[todo.pop()]} - found
        found |= more
        todo += more
    return found
