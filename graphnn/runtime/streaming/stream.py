"""Streaming: which axis a graph can be run along one step at a time, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from graphnn.backends.reference import Reference
from graphnn.errors import LengthsError, MissingInputError, StepError, UnknownInputError
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.ops.registry import OPS
from graphnn.planner.boundary.step_graph import copies, looks_ahead
from graphnn.planner.core.regions import carried
from graphnn.planner.core.rewrite import keep, reachable
from graphnn.runtime.call import read
from graphnn.runtime.call.read import declared

Tensor = torch.Tensor


def stream_axis(ir: IR, over: str | None) -> str:
    """The axis that `step` advances along. Raises StepError where there is none, or several."""
    found = {ir[i].attrs["axis"] for i in carried(ir)}
    found |= {a for a in ir.axes if copies(ir, a)}
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
            got=_needs(culprit, axes[0]),
            wanted="values of this and earlier positions only",
            fix="keep what is needed in a state, or call the model on the whole sequence",
        )
    return axes[0]


def _needs(culprit: Node, axis: str) -> str:
    if culprit.op == "delay" and culprit.attrs["axis"] == axis:
        return f"a negative delay over '{axis}'"
    over = culprit.attrs.get("axis", axis)
    if over == axis:
        return f"{culprit.op} over '{axis}'"
    if culprit.op == "delay":
        return f"a state that carries a copy of '{axis}'"
    return f"{culprit.op} over '{over}', a copy of '{axis}', with later positions not masked out"


def _culprit(ir: IR, axis: str) -> Node | None:
    """The first node that looks at more than this and earlier positions."""
    for node in ir:
        if OPS[node.op].family == "axis" and node.attrs["axis"] == axis:
            if node.op == "axis_at" and node.attrs["position"] == -1:
                continue  # the last position so far is this one
            return node
        if node.op == "delay" and node.attrs["axis"] == axis and node.attrs["steps"] < 0:
            return node
    return looks_ahead(ir, axis)


def knowable(ir: IR, axis: str, sizes: Mapping[str, int]) -> IR:
    """The graph without random numbers that no initial value can need: along `axis`, or along
    others of unknown length."""
    unknown = {axis, *ir.axes} - ({*sizes} - {axis})
    return keep(ir, {i for i, n in ir.nodes.items() if not (n.op == "random" and n.axes & unknown)})


def initial(ir: IR, reference: Reference, axis: str) -> dict[str, Tensor]:
    """The initial values of the states along `axis` that depend on no input but those given."""
    states: dict[str, Any] = {}
    for i in carried(ir):
        node = ir[i]
        if node.attrs["axis"] != axis or not node.axes - {axis} <= {*reference.sizes}:
            continue
        needed = (ir[j] for j in reachable(ir, node.inputs))
        if all(n.attrs["key"] in reference.inputs for n in needed if n.op == "input"):
            states[node.attrs["key"]] = _whole_initial(ir, reference, node)
    if any(n.op == "index" and n.attrs["axis"] == axis for n in ir):
        states[f"@{axis}"] = torch.zeros((), dtype=torch.int64)
    return states


def _whole_initial(ir: IR, reference: Reference, node: Node) -> Tensor:
    """(batch, *axes, [slots,] *shape)."""
    axis, steps = node.attrs["axis"], abs(node.attrs["steps"])
    axes = [a for a in ir.layout(node.axes) if a not in (BATCH, axis)]
    slots = [reference.initial(node, axes, k) for k in range(steps)]
    return slots[0] if steps == 1 else torch.stack(slots, 1 + len(axes))


def widened(ir: IR, axis: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs at one position as sequences of one."""
    wanted = declared(ir)
    return {
        name: x.unsqueeze(1 + wanted[name].attrs["over"].index(axis))
        if name in wanted and axis in wanted[name].attrs["over"] and isinstance(x, Tensor)
        else x
        for name, x in inputs.items()
    }


def still(ir: IR, axis: str) -> list[str]:
    """The inputs that are the same at every position of `axis`."""
    return [name for name, n in declared(ir).items() if axis not in n.attrs["over"]]


def before_steps(ir: IR, axis: str, inputs: Mapping[str, Any], lengths: Mapping[str, Any]) -> None:
    """Refuse inputs before the first step that are given step by step, and some without others."""
    wanted = still(ir, axis)
    if lengths and not wanted:
        raise LengthsError(
            f"all inputs of '{ir.name}' vary over '{axis}': there are none before the first step",
            got=f"lengths of {sorted(lengths)}",
            wanted="no lengths",
            fix="leave them out",
        )
    for name in inputs:
        if name in declared(ir) and name not in wanted:
            raise UnknownInputError(
                f"input '{name}' varies over '{axis}': there is none of it before the first step",
                got=name,
                wanted=f"inputs among {wanted}",
                fix=f"model.step(state, {name}=…)",
            )
    read.unknown(ir, inputs, wanted)
    for name in wanted:
        if inputs.get(name) is None:
            raise MissingInputError(
                f"input '{name}' was not given",
                node=name,
                site=declared(ir)[name].site,
                got=f"inputs {list(inputs)}",
                wanted=f"all that do not vary over '{axis}': {wanted}",
                fix=f"initial_state({', '.join(f'{n}=…' for n in wanted)})",
            )


def in_steps(
    ir: IR, axis: str, given: Mapping[str, Any], lengths: Mapping[str, Any], kept: bool
) -> None:
    """Refuse a step that is given again what its state keeps, or that has neither."""
    wanted = still(ir, axis)
    again = [n for n in wanted if given.get(n) is not None]
    if kept and again:
        raise UnknownInputError(
            f"the state keeps what steps need of '{again[0]}' since initial_state()",
            got=f"input '{again[0]}' besides",
            wanted=f"inputs over '{axis}' alone",
            fix="leave it out; for another, begin with another initial_state(…)",
        )
    if kept and {*lengths} - {axis}:
        raise LengthsError(
            "the state keeps the lengths that initial_state() was given",
            got=f"lengths of {sorted({*lengths} - {axis})} besides",
            wanted="none",
            fix="initial_state(…, lengths={…}), and steps without",
        )
    if wanted and not kept and not again:
        raise MissingInputError(
            f"input '{wanted[0]}' was not given, and the state keeps nothing of it",
            node=wanted[0],
            site=declared(ir)[wanted[0]].site,
            got=f"inputs {list(given)}",
            wanted=f"all that do not vary over '{axis}', {wanted}, once or at each step",
            fix=f"state = model.initial_state({', '.join(f'{n}=…' for n in wanted)})",
        )
