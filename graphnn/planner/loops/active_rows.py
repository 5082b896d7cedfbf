"""Active rows: a loop whose steps run only on examples that have not ended needs no masks.

Masked states keep their value beyond an example's end. Without masks they take their next value at
every step.
"""

from __future__ import annotations

from dataclasses import replace

from graphnn.ir.graph import IR
from graphnn.planner.core.loop_graph import LoopIR


def drop_masks(cut: LoopIR, whole: IR) -> LoopIR:
    """The loop without the `where` nodes by which `lengths.mask` masks its states.

    `whole` is the graph that the loop was cut out of.
    """
    ir = cut.ir
    masked = {}
    for delay, i in ir.closings.items():
        node = ir[i]
        if node.op != "where" or i in cut.results or node.inputs[2] != delay:
            continue
        after = ir[node.inputs[1]]
        same = (after.axes, after.shape, after.dtype) == (node.axes, node.shape, node.dtype)
        if same and after.op != "given" and _valid(whole, node.inputs[0], cut):
            masked[i] = after.id
    if not masked:
        return cut
    new = ir.copy()
    new.nodes = {
        n.id: replace(n, inputs=tuple(masked.get(j, j) for j in n.inputs))
        for n in ir
        if n.id not in masked
    }
    new.closings = {d: masked.get(i, i) for d, i in ir.closings.items()}
    read = {j for n in new for j in n.inputs}
    gone = {i for i in cut.reads if i not in read and i != cut.ends}
    new.nodes = {i: n for i, n in new.nodes.items() if i not in gone}
    loop = replace(cut.loop, nodes=[i for i in cut.loop.nodes if i not in masked])
    return replace(cut, ir=new, loop=loop, reads=[i for i in cut.reads if i not in gone])


def _valid(whole: IR, i: int, cut: LoopIR) -> bool:
    """Whether a value is the mask of the positions before the end of each example."""
    if whole[i].op != "lt":
        return False
    place, end = (whole[j] for j in whole[i].inputs)
    return place.op == "index" and place.attrs["axis"] == cut.loop.axis and end.id == cut.ends
