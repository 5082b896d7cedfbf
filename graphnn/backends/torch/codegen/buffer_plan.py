"""Where a loop's values lie: which share a buffer with what they become part of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphnn.ir.graph import IR, Node
from graphnn.planner.core.regions import loop_numbers

if TYPE_CHECKING:
    from graphnn.backends.torch.codegen.loop import LoopWriter


def part_spans(ir: IR, node: Node) -> list[str]:
    """The indices of a concatenation's parts in it."""
    start, dim, found = 0, node.attrs["dim"], []
    for i in node.inputs:
        stop = start + ir[i].shape[dim]
        found.append(", ".join(["...", f"{start}:{stop}", *[":"] * (len(node.shape) - dim - 1)]))
        start = stop
    return found


def accumulated(w: LoopWriter) -> dict[int, int]:
    """What only a product is added to, with that sum: it is computed in the sum's own place."""
    users, found = w.ir.users(), {}
    for i in w.loop.nodes:
        node = w.ir[i]
        if node.op != "affine" or not w.top(i) or not w.writes_out(node):
            continue
        c = w.ir[node.inputs[0]]
        free = users[c.id] == [i] and c.id not in w.keep and c.id not in w.placed
        free = free and c.id in w.loop.nodes and w.top(c.id) and w.writes_out(c)
        if free and (c.axes, c.shape, c.dtype) == (node.axes, node.shape, node.dtype):
            found[c.id] = i
    return found


def joined_later(w: LoopWriter) -> dict[int, Node]:
    """What is read after the loop as a part of a concatenation over the whole axis, with it."""
    found: dict[int, Node] = {}
    home = loop_numbers(w.ir)
    if w.outer.dropped or w.loop.stop is not None:
        return found
    for node in w.ir:
        if node.op == "cat" and node.id not in w.outer.names and node.id not in home:
            for part in (w.ir[j] for j in node.inputs):
                own = w.top(part.id) and part.id not in w.placed
                same = part.axes == node.axes and part.dtype == node.dtype
                if own and same and w.writes_out(part) and part.id not in w.results:
                    found.setdefault(part.id, node)
    return found


def gathered(w: LoopWriter) -> set[int]:
    """Products that are only summed over the loop's axis: multiplied and added in one call."""
    users, found = w.ir.users(), set()
    for i in w.loop.nodes:
        node = w.ir[i]
        if node.op == "axis_sum" and node.attrs["axis"] == w.loop.axis:
            x = w.ir[node.inputs[0]]
            plain = all(w.ir[j].dtype == node.dtype for j in x.inputs)
            plain = plain and all(w.ir[j].op != "const" for j in x.inputs)
            if x.op == "mul" and plain and users[x.id] == [i] and x.id in w.members:
                found.add(x.id)
    return found - w.results
