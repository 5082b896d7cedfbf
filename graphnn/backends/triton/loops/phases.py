"""Splits a step into phases: matmuls by torch, and one kernel for everything between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS

FUSED = frozenset({"pointwise", "view", "join", "reduce"})


@dataclass
class Phase:
    """Operations of a step that one kernel computes. They vary over the same axes."""

    nodes: list[int]


Part = int | Phase


def fusable(ir: IR, node: Node) -> bool:
    """Whether the kernel of a phase can compute an operation. Torch multiplies by weights."""
    if node.op == "argmax":
        return False
    if node.op == "einsum":
        return all(ir[i].axes for i in node.inputs) and not node.attrs["contract"]
    return OPS[node.op].family in FUSED and (
        OPS[node.op].family != "pointwise" or bool(OPS[node.op].triton_text) or node.op == "cast"
    )


def schedule(ir: IR, nodes: Sequence[int]) -> list[Part]:
    """The parts of a step in order, with as few phases as their operands allow."""
    left, inside = list(nodes), set(nodes)
    done: set[int] = set()
    parts: list[Part] = []

    def ready(i: int, also: set[int]) -> bool:
        # a delay over another axis reads its next value
        reads = [*ir[i].inputs, *([ir.closings[i]] if i in ir.closings else [])]
        return all(j in done or j in also or j not in inside for j in reads)

    def by_torch(i: int) -> bool:
        # a view costs nothing in memory, and nothing within a phase
        return not fusable(ir, ir[i]) or OPS[ir[i].op].family == "view"

    while left:
        _take(left, lambda i: by_torch(i) and ready(i, set()), done, parts)
        first = next((i for i in left if ready(i, set())), None)
        if first is None:
            continue
        phase: set[int] = set()
        for i in left:
            if fusable(ir, ir[i]) and ir[i].axes == ir[first].axes and ready(i, phase):
                phase.add(i)
        parts.append(Phase([i for i in left if i in phase]))
        done |= phase
        left = [i for i in left if i not in phase]
    return parts


def _take(
    left: list[int], wanted: Callable[[int], bool], done: set[int], parts: list[Part]
) -> None:
    """Move to `parts` all operations that torch can run now."""
    moved = True
    while moved:
        moved = False
        for i in list(left):
            if wanted(i):
                parts.append(i)
                done.add(i)
                left.remove(i)
                moved = True
