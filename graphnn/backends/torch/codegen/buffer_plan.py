"""Which values of a loop share memory: parts of a concatenation, sums, and running totals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from graphnn.backends.torch.codegen.operations import is_linear, is_transposed
from graphnn.backends.torch.codegen.scope import Scope
from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole, loop_numbers


@dataclass
class BufferPlan:
    """The buffers of the values of a loop; all nodes are ids.

    `keep` are the values that need a buffer over the whole axis. `joins` are the loop's
    concatenations, in order, each with the parts that are written directly into it; `placed` are
    these parts and the concatenations. `sum_of` maps what only a matmul is added to, to that sum:
    both use one buffer. `joined_later` maps values to the concatenation over the whole axis, after
    the loop, that they are a part of. `totalled` are elementwise products that are only summed over
    the loop's axis: one call multiplies and adds.
    """

    keep: set[int]
    joins: dict[int, set[int]] = field(default_factory=dict)
    placed: set[int] = field(default_factory=set)
    sum_of: dict[int, int] = field(default_factory=dict)
    joined_later: dict[int, Node] = field(default_factory=dict)
    totalled: set[int] = field(default_factory=set)


def buffer_plan(
    outer: Scope, step: Scope, loop: Loop, keep: set[int], results: set[int]
) -> BufferPlan:
    """The plan of a loop.

    `step` is the scope of its steps and `outer` the one around it, which reads `keep` and returns
    `results`.
    """
    plan = BufferPlan(set(keep))
    ir, closed = outer.ir, {outer.ir.closings[d] for d in loop.states}
    for node in (ir[i] for i in loop.nodes if ir[i].op == "cat" and in_step(loop, i)):
        own = {i for i in _own_parts(step, loop, node) if i not in plan.placed | closed}
        if own & plan.keep:
            plan.keep.add(node.id)
        plan.joins[node.id] = own
        plan.placed |= {node.id, *own}
    plan.totalled = _totalled(ir, loop, results)
    plan.sum_of = _sums(step, loop, plan)
    plan.joined_later = _joined_later(outer, step, loop, plan, results)
    return plan


def part_spans(ir: IR, node: Node) -> list[str]:
    """The indices of a concatenation's parts in it."""
    start, dim, found = 0, node.attrs["dim"], []
    for i in node.inputs:
        stop = start + ir[i].shape[dim]
        found.append(", ".join(["...", f"{start}:{stop}", *[":"] * (len(node.shape) - dim - 1)]))
        start = stop
    return found


def in_step(loop: Loop, i: int) -> bool:
    """Whether a node is computed in the loop's own step, not in a loop inside it."""
    return any(isinstance(r, Whole) and i in r.nodes for r in loop.body)


def writes_out(step: Scope, node: Node) -> bool:
    """Whether torch can write this operation's result into a given buffer."""
    if node.op in ("einsum", "affine"):
        return _two_dimensional(step, node)
    return OPS[node.op].family == "pointwise" and bool(OPS[node.op].out_text)


def _two_dimensional(step: Scope, node: Node) -> bool:
    a, b = (step.ir[i] for i in node.inputs[-2:])
    sub = node.attrs["sub"]
    known = is_linear(step, a, b, sub) or is_transposed(step, a, b, sub)
    contract = node.attrs["contract"] - set(step.dropped)
    return known and not contract and len(step.axes(a)) == 1 and len(a.shape) == 1


def _writable(step: Scope, loop: Loop, i: int) -> bool:
    """Whether a node of the loop's own step can be written into a given buffer."""
    return in_step(loop, i) and writes_out(step, step.ir[i])


def _own_parts(step: Scope, loop: Loop, node: Node) -> Iterator[int]:
    """The parts of a concatenation that can be computed in their places in it."""
    for part in (step.ir[i] for i in node.inputs):
        same = part.axes == node.axes and part.dtype == node.dtype
        if same and node.inputs.count(part.id) == 1 and _writable(step, loop, part.id):
            yield part.id


def _sums(step: Scope, loop: Loop, plan: BufferPlan) -> dict[int, int]:
    ir, users, found = step.ir, step.ir.users(), {}
    for i in loop.nodes:
        node = ir[i]
        if node.op != "affine" or not _writable(step, loop, i):
            continue
        c = ir[node.inputs[0]]
        free = users[c.id] == [i] and c.id not in plan.keep and c.id not in plan.placed
        same = (c.axes, c.shape, c.dtype) == (node.axes, node.shape, node.dtype)
        if free and same and _writable(step, loop, c.id):
            found[c.id] = i
    return found


def _joined_later(
    outer: Scope, step: Scope, loop: Loop, plan: BufferPlan, results: set[int]
) -> dict[int, Node]:
    found: dict[int, Node] = {}
    if outer.dropped or loop.stop is not None:
        return found
    home = loop_numbers(outer.ir)
    for node in outer.ir:
        if node.op == "cat" and node.id not in outer.names and node.id not in home:
            for part in (outer.ir[j] for j in node.inputs):
                free = part.id not in plan.placed and part.id not in results
                same = part.axes == node.axes and part.dtype == node.dtype
                if free and same and _writable(step, loop, part.id):
                    found.setdefault(part.id, node)
    return found


def _totalled(ir: IR, loop: Loop, results: set[int]) -> set[int]:
    users, found, members = ir.users(), set(), set(loop.nodes)
    for i in loop.nodes:
        node = ir[i]
        if node.op == "axis_sum" and node.attrs["axis"] == loop.axis:
            x = ir[node.inputs[0]]
            plain = all(ir[j].dtype == node.dtype and ir[j].op != "const" for j in x.inputs)
            if x.op == "mul" and plain and users[x.id] == [i] and x.id in members:
                found.add(x.id)
    return found - results
