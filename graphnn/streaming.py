"""Streaming: which axis a graph can be run along one step at a time, and what it starts from."""

from __future__ import annotations

from typing import Any

import torch

from graphnn.backends.reference import Reference
from graphnn.errors import StepError
from graphnn.ir import BATCH, IR, Node
from graphnn.ops.table import OPS
from graphnn.planner.partition import carried
from graphnn.planner.rewrite import keep, reachable


def stream_axis(ir: IR, over: str | None) -> str:
    """The axis that `step` advances along. Raises StepError where there is none, or several."""
    found = {ir[i].attrs["axis"] for i in carried(ir)}
    brought = {a for n in ir if n.op == "input" for a in n.attrs["over"]}
    axes = [a for a in ir.axes if a in brought and (a in found or not found)]
    if over is None and len(axes) > 1:
        axes = [a for a in axes if _culprit(ir, a) is None] or axes
    if over is not None:
        axes = [a for a in axes if a == over]
    if len(axes) != 1:
        raise StepError(
            f"'{ir.name}' has no one axis to step along",
            got=f"over={over!r}, candidates {sorted(brought & found) or sorted(brought)}",
            wanted="one axis that inputs vary over and states run along",
            fix="model.step(state, over='time', …)",
        )
    culprit = _culprit(ir, axes[0])
    if culprit is not None:
        raise StepError(
            f"'{ir.name}' cannot be streamed along '{axes[0]}': '{culprit.label}' needs all of it",
            node=culprit.label,
            site=culprit.site,
            got=f"{'a negative delay' if culprit.op == 'delay' else culprit.op} over '{axes[0]}'",
            wanted="values of this and earlier positions only",
            fix="keep what is needed in a state, or call the model on the whole sequence",
        )
    return axes[0]


def _culprit(ir: IR, axis: str) -> Node | None:
    """The first node that looks at more than this and earlier positions."""
    for node in ir:
        if OPS[node.op].family == "axis" and node.attrs["axis"] == axis:
            if node.op == "axis_at" and node.attrs["position"] == -1:
                continue  # the last position so far is this one
            return node
        if node.op == "delay" and node.attrs["axis"] == axis and node.attrs["steps"] < 0:
            return node
        if node.op == "rename" and axis in node.attrs["axes"]:
            return node
    return None


def without_axis(ir: IR, axis: str) -> IR:
    """The graph without random numbers along `axis`, which no initial value can need."""
    return keep(ir, {i for i, n in ir.nodes.items() if not (n.op == "random" and axis in n.axes)})


def initial(ir: IR, reference: Reference, axis: str) -> dict[str, torch.Tensor]:
    """The initial values of the states along `axis` that do not depend on inputs."""
    states: dict[str, Any] = {}
    for i in carried(ir):
        node = ir[i]
        if node.attrs["axis"] != axis:
            continue
        if any(ir[j].op == "input" for j in reachable(ir, node.inputs)):
            continue
        states[node.attrs["key"]] = _whole_initial(ir, reference, node)
    if any(n.op == "index" and n.attrs["axis"] == axis for n in ir):
        states[f"@{axis}"] = torch.zeros((), dtype=torch.int64)
    return states


def _whole_initial(ir: IR, reference: Reference, node: Node) -> torch.Tensor:
    """(batch, *axes, [slots,] *shape)."""
    axis, steps = node.attrs["axis"], abs(node.attrs["steps"])
    axes = [a for a in ir.layout(node.axes) if a not in (BATCH, axis)]
    slots = [reference.initial(node, axes, k) for k in range(steps)]
    return slots[0] if steps == 1 else torch.stack(slots, 1 + len(axes))
