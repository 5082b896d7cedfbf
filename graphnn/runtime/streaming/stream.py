"""Which axis a graph can be streamed along, its initial states, and checks of streamed inputs."""

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
    """The axis that `step` advances along. Raises StepError if there is none, or several."""
    found = {ir[i].attrs["axis"] for i in carried(ir)}
    found |= {a for a in ir.axes if copies(ir, a)}
    brought = {a for n in ir if n.op == "input" for a in n.attrs["over"]}
    axes = [a for a in ir.axes if a in brought and (a in found or not found)]
    if over is None and len(axes) > 1:
        axes = [a for a in axes if _blocker(ir, a) is None] or axes
    if over is not None:
        axes = [a for a in axes if a == over]
    if len(axes) != 1:
        raise StepError(
            f"'{ir.name}' has no one axis to step along",
            got=f"over={over!r}, candidates {sorted(brought & found) or sorted(brought)}",
            wanted="one axis that inputs vary over and states run along",
            fix="model.step(state, over='time', …)",
        )
    blocker = _blocker(ir, axes[0])
    if blocker is not None:
        raise StepError(
            f"'{ir.name}' cannot be streamed along '{axes[0]}': '{blocker.label}' needs all of it",
            node=blocker.label,
            site=blocker.site,
            got=_description(blocker, axes[0]),
            wanted="values of this and earlier positions only",
            fix="keep what is needed in a state, or call the model on the whole sequence",
        )
    return axes[0]


def _description(blocker: Node, axis: str) -> str:
    if blocker.op == "delay" and blocker.attrs["axis"] == axis:
        return f"a negative delay over '{axis}'"
    over = blocker.attrs.get("axis", axis)
    if over == axis:
        return f"{blocker.op} over '{axis}'"
    if blocker.op == "delay":
        return f"a state that carries a copy of '{axis}'"
    return f"{blocker.op} over '{over}', a copy of '{axis}', with later positions not masked out"


def _blocker(ir: IR, axis: str) -> Node | None:
    """The first node that reads later positions, which rules out streaming, or None."""
    for node in ir:
        if OPS[node.op].family == "axis" and node.attrs["axis"] == axis:
            if node.op == "axis_at" and node.attrs["position"] == -1:
                continue  # while streaming, the last position is the current one
            return node
        if node.op == "delay" and node.attrs["axis"] == axis and node.attrs["steps"] < 0:
            return node
    return looks_ahead(ir, axis)


def without_unknown_noise(ir: IR, axis: str, sizes: Mapping[str, int]) -> IR:
    """The graph without random nodes along `axis` or along axes of unknown length.

    No initial value can depend on them.
    """
    unknown = {axis, *ir.axes} - ({*sizes} - {axis})
    return keep(ir, {i for i, n in ir.nodes.items() if not (n.op == "random" and n.axes & unknown)})


def initial_states(ir: IR, reference: Reference, axis: str) -> dict[str, Tensor]:
    """The initial values of the states along `axis`, those that the given inputs determine."""
    states: dict[str, Any] = {}
    for i in carried(ir):
        node = ir[i]
        if node.attrs["axis"] != axis or not node.axes - {axis} <= {*reference.sizes}:
            continue
        needed = (ir[j] for j in reachable(ir, node.inputs))
        if all(n.attrs["key"] in reference.inputs for n in needed if n.op == "input"):
            states[node.attrs["key"]] = _initial_state(ir, reference, node)
    if any(n.op == "index" and n.attrs["axis"] == axis for n in ir):
        states[f"@{axis}"] = torch.zeros((), dtype=torch.int64)
    return states


def _initial_state(ir: IR, reference: Reference, node: Node) -> Tensor:
    """The initial value of a delay: (batch, *axes, [slots,] *shape)."""
    axis, steps = node.attrs["axis"], abs(node.attrs["steps"])
    axes = [a for a in ir.layout(node.axes) if a not in (BATCH, axis)]
    slots = [reference.initial(node, axes, k) for k in range(steps)]
    return slots[0] if steps == 1 else torch.stack(slots, 1 + len(axes))


def with_position_axis(ir: IR, axis: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs over `axis`, given for one position, as sequences of length one."""
    wanted = declared(ir)
    return {
        name: x.unsqueeze(1 + wanted[name].attrs["over"].index(axis))
        if name in wanted and axis in wanted[name].attrs["over"] and isinstance(x, Tensor)
        else x
        for name, x in inputs.items()
    }


def constant_inputs(ir: IR, axis: str) -> list[str]:
    """The names of the inputs that do not vary over `axis`."""
    return [name for name, n in declared(ir).items() if axis not in n.attrs["over"]]


def check_initial_inputs(
    ir: IR, axis: str, inputs: Mapping[str, Any], lengths: Mapping[str, Any]
) -> None:
    """Check the inputs of `initial_state`: all that do not vary over `axis`, and no others."""
    wanted = constant_inputs(ir, axis)
    if lengths and not wanted:
        raise LengthsError(
            f"all inputs of '{ir.name}' vary over '{axis}': initial_state takes none of them",
            got=f"lengths of {sorted(lengths)}",
            wanted="no lengths",
            fix="leave them out",
        )
    for name in inputs:
        if name in declared(ir) and name not in wanted:
            raise UnknownInputError(
                f"input '{name}' varies over '{axis}': give it to step, not to initial_state",
                got=name,
                wanted=f"inputs among {wanted}",
                fix=f"model.step(state, {name}=…)",
            )
    read.check_known(ir, inputs, wanted)
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


def check_step_inputs(
    ir: IR, axis: str, given: Mapping[str, Any], lengths: Mapping[str, Any], prepared: bool
) -> None:
    """Check the inputs of `step`: constant ones are given here or to `initial_state`, not twice.

    `prepared` is true if the state holds what `initial_state` computed from them.
    """
    wanted = constant_inputs(ir, axis)
    again = [n for n in wanted if given.get(n) is not None]
    if prepared and again:
        raise UnknownInputError(
            f"the state already holds what steps need of '{again[0]}'",
            got=f"input '{again[0]}' again",
            wanted=f"only inputs over '{axis}'",
            fix="leave it out; for another value, start from another initial_state(…)",
        )
    if prepared and {*lengths} - {axis}:
        raise LengthsError(
            "the state already holds the lengths that initial_state() was given",
            got=f"lengths of {sorted({*lengths} - {axis})} again",
            wanted="none",
            fix="give lengths to initial_state only",
        )
    if wanted and not prepared and not again:
        raise MissingInputError(
            f"input '{wanted[0]}' was given neither to step nor to initial_state",
            node=wanted[0],
            site=declared(ir)[wanted[0]].site,
            got=f"inputs {list(given)}",
            wanted=f"all that do not vary over '{axis}': {wanted}, once or at each step",
            fix=f"state = model.initial_state({', '.join(f'{n}=…' for n in wanted)})",
        )
