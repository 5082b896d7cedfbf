"""Work of a part of a graph, for given sizes of its axes: operations, bytes and launches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from graphnn.ir.graph import IR, Node
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.core.cost import Device, Work, timed
from graphnn.planner.core.regions import Loop, Region

Sizes = Mapping[str, int]
# operations that compute nothing
FREE = frozenset("const parameter tensor size index length given pick input delay final".split())
VIEWS = frozenset({"view", "rename", "along"})


def elements(node: Node, sizes: Sizes, without: frozenset[str] = frozenset()) -> int:
    """The number of elements of a value over all of its axes but those `without`."""
    return math.prod(node.shape) * math.prod(sizes[a] for a in node.axes - without)


def of_node(ir: IR, node: Node, sizes: Sizes, without: frozenset[str] = frozenset()) -> Work:
    """The work of one call of a node over all of its axes but those `without`."""
    if node.op in FREE or OPS[node.op].family in VIEWS:
        return Work()
    made = elements(node, sizes, without)
    read = sum(
        elements(ir[i], sizes, without) * ir[i].dtype.itemsize
        for i in dict.fromkeys(node.inputs)
        if ir[i].op != "const"
    )
    moved = float(read + made * node.dtype.itemsize)
    if OPS[node.op].family == "einsum":
        return Work(flops=_products(ir, node, sizes, without), bytes=moved, launches=1)
    if node.op == "aten":
        return Work(flops=_layer(ir, node, sizes), bytes=moved, launches=1)
    if node.op == "attend":
        return _attention(node, sizes, moved)
    # a reduction does its operations once per element that it reads
    widest = max([made, *(elements(ir[i], sizes, without) for i in node.inputs)])
    return Work(pointwise=float(OPS[node.op].flops * widest), bytes=moved, launches=1)


def _products(ir: IR, node: Node, sizes: Sizes, without: frozenset[str]) -> float:
    """Two operations for every letter of the einsum and every axis of the operands."""
    a, b = (ir[i] for i in node.inputs[-2:])
    left, right, _ = split_sub(node.attrs["sub"])
    letters = {**dict(zip(left, a.shape)), **dict(zip(right, b.shape))}
    axes = (a.axes | b.axes) - without
    return 2.0 * math.prod(letters.values()) * math.prod(sizes[x] for x in axes)


def _layer(ir: IR, node: Node, sizes: Sizes) -> float:
    """A recurrent layer of torch: its matrices, once per position."""
    weights = [math.prod(ir[i].shape) for i in node.inputs if len(ir[i].shape) == 2]
    return 2.0 * sum(weights) * math.prod(sizes[a] for a in node.axes)


def _attention(node: Node, sizes: Sizes, moved: float) -> Work:
    """Operations for each query and key; bytes only for operands and results."""
    ir = node.attrs["part"].ir
    known = {**{a: x.length for a, x in ir.axes.items() if x.length is not None}, **sizes}
    work = of_nodes(ir, list(ir.nodes), known)
    return Work(flops=work.flops, pointwise=work.pointwise, bytes=moved, launches=1)


def of_graph(ir: IR, sizes: Sizes, backward: bool = False) -> Work:
    """A lower bound for a whole graph: inputs, parameters and outputs are moved once.

    With `backward`, matmuls count three times, and the gradients of inputs, parameters and outputs
    are moved once.
    """
    given = [n for n in ir if n.op in ("input", "parameter", "tensor")]
    ends = [ir[i] for i in dict.fromkeys(ir.outputs.values())]
    taken, handed = (
        float(sum(elements(n, sizes) * n.dtype.itemsize for n in nodes)) for nodes in (given, ends)
    )
    moved = (taken + handed) * (1 + backward) + taken * backward
    work = of_nodes(ir, list(ir.nodes), sizes)
    return Work(work.flops * (3 if backward else 1), work.pointwise, moved, 1)


def of_nodes(ir: IR, nodes: Iterable[int], sizes: Sizes) -> Work:
    """The work of nodes over whole axes, one call per node."""
    return sum((of_node(ir, ir[i], sizes) for i in nodes), Work())


def through(ir: IR, nodes: Iterable[int], sizes: Sizes) -> Work:
    """A lower bound for nodes run together: outside operands and results are moved once."""
    inside = list(nodes)
    mine, users, wanted = set(inside), ir.users(), set(ir.outputs.values())
    ends = {i for i in inside if i in wanted or any(u not in mine for u in users[i])}
    starts = {j for i in inside for j in ir[i].inputs if j not in mine and ir[j].op != "const"}
    moved = sum(
        elements(ir[i], sizes) * ir[i].dtype.itemsize
        for i in starts | ends
        if ir[i].op not in ("size", "index")
    )
    work = of_nodes(ir, inside, sizes)
    return Work(work.flops, work.pointwise, float(moved), 1)


def expected(device: Device, ir: IR, region: Region, sizes: Sizes, strategy: str = "") -> float:
    """The seconds that a region is expected to need, forward.

    It runs as one kernel if the strategy is "resident" or "scan", otherwise as one call per node
    and step.
    """
    if isinstance(region, Loop) and strategy in ("resident", "scan"):
        programs = math.ceil(sizes.get("batch", 1) / 16)
        whole = through(ir, region.nodes, sizes)
        return timed(device, whole, ir.floating, units=programs if strategy == "resident" else None)
    if isinstance(region, Loop):
        steps, without = sizes[region.axis], frozenset({region.axis})
        return steps * sum(_call(device, ir, ir[i], sizes, without) for i in region.nodes)
    return sum(_call(device, ir, ir[i], sizes, frozenset()) for i in region.nodes)


def _call(device: Device, ir: IR, node: Node, sizes: Sizes, without: frozenset[str]) -> float:
    work = of_node(ir, node, sizes, without)
    if node.op == "aten":  # one matmul per step, in sequence
        steps = max(1, sizes[node.attrs["axis"]])
        return device.call + timed(device, work, node.dtype, rounds=steps)
    return timed(device, work, node.dtype)
