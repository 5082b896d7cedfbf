"""One position at a time: the part of a compiled model that streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from graphnn import calls, streaming
from graphnn.ir import BATCH
from graphnn.planner.stream import Cache, copies, stream
from graphnn.value import Value

Tensor = torch.Tensor


class Stepping(nn.Module):
    """`initial_state` and `step`, for a class that has a graph and runs it."""

    _steppers: dict[Any, tuple[str, Any, list[Cache]]]
    ir: Any
    _device: Any
    _evaluation: Any
    _mode: Any
    _part: Any

    def initial_state(self, batch: int = 1, over: str | None = None) -> dict[str, Tensor]:
        """The states before the first position, (batch, *axes, *shape) by name, for `step`.

        States that start from what inputs say are left out: the first step computes them.
        """
        axis, _, caches = self._stepping(over)
        device = self._device() or torch.device("cpu")
        sizes = {a: x.length for a, x in self.ir.axes.items() if x.length is not None}
        call = calls.Call({}, {**sizes, BATCH: batch}, {}, {}, device)
        run = self._evaluation(call, streaming.without_axis(self.ir, axis))
        known = {*call.sizes, *(c.copy for c in caches)}
        past = {
            c.name: streaming.empty(c, call.sizes, device) for c in caches if known >= {*c.over}
        }
        return {**streaming.initial(self.ir, run, axis), **past}

    def step(
        self,
        state: Mapping[str, Tensor],
        over: str | None = None,
        lengths: Mapping[str, Any] | None = None,
        **inputs: Tensor,
    ) -> tuple[Any, dict[str, Tensor]]:
        """Advance by one position: (outputs, states), from the states of the step before.

        Inputs that vary over the axis are given for one position, (batch, *shape); others whole,
        with the `lengths` of their axes. Causal attention keeps among the states what it attends to
        of earlier positions. Raises StepError where the graph needs more than this and earlier
        positions.
        """
        (axis, stepper, caches), ir = self._stepping(over), self.ir
        given = streaming.widened(ir, axis, inputs)
        if any(c.name not in state for c in caches):
            call = calls.read(ir, given, None, None, self._device())
            empty = {c.name: streaming.empty(c, call.sizes, call.device) for c in caches}
            state = {**empty, **state}
        given |= streaming.opened(caches, state)
        names = {c.name for c in caches}
        own = {k: v for k, v in state.items() if k not in names}
        call = calls.read(stepper.ir, given, lengths, own, self._device())
        outputs, final, _ = stepper._run(call, True, frozenset(), frozenset())
        past = {c.name: outputs.pop(c.name) for c in caches}
        for name, value in outputs.items():
            axes = Value.order(ir, ir.outputs[name])
            if axis in axes:
                outputs[name] = value.squeeze(1 + axes.index(axis))
        kept = {n.attrs["key"] for n in ir if n.op == "delay" and n.attrs["axis"] == axis}
        own = {k: v for k, v in final.items() if k in kept or k == f"@{axis}"}
        result: Any = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return result, {**own, **past}

    def _stepping(self, over: str | None) -> tuple[str, Any, list[Cache]]:
        """The axis to step along, the model of one step, and what it keeps besides states."""
        key = (self._mode(), over)
        if key not in self._steppers:
            axis, stepper, caches = streaming.stream_axis(self.ir, over), self, []
            if copies(self.ir, axis):
                streamed = stream(self.ir, axis)
                stepper, caches = self._part(streamed.ir), streamed.caches
            self._steppers[key] = (axis, stepper, caches)
        return self._steppers[key]
