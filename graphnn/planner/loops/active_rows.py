"""unmask: a loop whose steps are taken of running examples alone need not hold states still.

Where a state keeps its value beyond an example's end, it takes its next value at every step.
"""

from __future__ import annotations

from dataclasses import replace

from graphnn.ir.graph import IR
from graphnn.planner.core.loop_graph import LoopIR


def unmask(cut: LoopIR, whole: IR) -> LoopIR:
    """The loop without the choices by which `mask` holds states; `whole` is the graph it is of."""
    ir = cut.ir
    held = {}
    for delay, i in ir.closings.items():
        node = ir[i]
        if node.op != "where" or i in cut.results or node.inputs[2] != delay:
            continue
        after = ir[node.inputs[1]]
        alike = (after.axes, after.shape, after.dtype) == (node.axes, node.shape, node.dtype)
        if alike and after.op != "given" and _valid(whole, node.inputs[0], cut):
            held[i] = after.id
    if not held:
        return cut
    new = ir.copy()
    new.nodes = {
        n.id: replace(n, inputs=tuple(held.get(j, j) for j in n.inputs))
        for n in ir
        if n.id not in held
    }
    new.closings = {d: held.get(i, i) for d, i in ir.closings.items()}
    read = {j for n in new for j in n.inputs}
    gone = {i for i in cut.reads if i not in read and i != cut.ends}
    new.nodes = {i: n for i, n in new.nodes.items() if i not in gone}
    loop = replace(cut.loop, nodes=[i for i in cut.loop.nodes if i not in held])
    return replace(cut, ir=new, loop=loop, reads=[i for i in cut.reads if i not in gone])


def _valid(whole: IR, i: int, cut: LoopIR) -> bool:
    """Whether a value says that a position is one that its example has."""
    if whole[i].op != "lt":
        return False
    place, end = (whole[j] for j in whole[i].inputs)
    return place.op == "index" and place.attrs["axis"] == cut.loop.axis and end.id == cut.ends
