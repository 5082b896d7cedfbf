"""Streaming: which axis a graph can be run along one step at a time, and what it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.backends.reference import Reference
from graphnn.calls import declared
from graphnn.errors import StateError, StepError
from graphnn.ir import BATCH, IR, Node
from graphnn.ops.table import OPS
from graphnn.planner.partition import carried
from graphnn.planner.rewrite import keep, reachable
from graphnn.planner.stream import Cache, copies, looks_ahead

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


def without_axis(ir: IR, axis: str) -> IR:
    """The graph without random numbers along `axis`, which no initial value can need."""
    return keep(ir, {i for i, n in ir.nodes.items() if not (n.op == "random" and axis in n.axes)})


def initial(ir: IR, reference: Reference, axis: str) -> dict[str, Tensor]:
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


def empty(cache: Cache, sizes: Mapping[str, int], device: torch.device) -> Tensor:
    """A cache before the first position."""
    axes = [0 if a == cache.copy else sizes[a] for a in cache.over]
    shape = (sizes[BATCH], *axes, *cache.node.shape)
    return torch.empty(shape, dtype=cache.node.dtype, device=device)


def opened(caches: list[Cache], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each cache with one place more at its end, where this position comes, as inputs of a step.

    Beyond its window the oldest position is left out. Raises StateError.
    """
    given = {}
    for cache in caches:
        past, d = state[cache.name], len(cache.over)
        if not isinstance(past, Tensor) or past.dim() != 1 + d + len(cache.node.shape):
            raise StateError(
                f"state '{cache.name}' has another form than a step gave it",
                node=cache.name,
                got=tuple(past.shape) if isinstance(past, Tensor) else type(past).__name__,
                wanted=f"(batch, {', '.join(cache.over)}, *{tuple(cache.node.shape)})",
                fix="pass what initial_state() or the last step() gave",
            )
        if cache.window is not None and past.shape[d] >= cache.window:
            past = past.narrow(d, past.shape[d] - cache.window + 1, cache.window - 1)
        given[cache.name] = F.pad(past, [0, 0] * (past.dim() - d - 1) + [0, 1])
    return given
