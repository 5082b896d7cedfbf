"""One position at a time: the part of a compiled model that streams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphnn.errors import InputShapeError, LengthsError
from graphnn.frontend.value import Value
from graphnn.ir.graph import BATCH, IR
from graphnn.planner.boundary.invariants import InvariantSplit
from graphnn.planner.boundary.step_graph import Cache, copies
from graphnn.planner.contexts import StepContext
from graphnn.planner.pipeline import Stage, run
from graphnn.runtime.call import read
from graphnn.runtime.streaming import state_cache
from graphnn.runtime.streaming import stream as streaming

Tensor = torch.Tensor
State = dict[str, Tensor]
LENGTHS = "@lengths of "


@dataclass(frozen=True)
class Stream:
    """A graph along an axis, the model of one step of it, and what that keeps besides states."""

    axis: str
    ir: IR
    model: Any
    step: IR
    caches: list[Cache]


@dataclass(frozen=True)
class Streams:
    """A graph along an axis as it is, and in two parts: what is the same at every position, as
    `names` of what it makes, and the steps that read this."""

    whole: Stream
    before: Any
    names: list[str]
    steps: Stream


class Stepping(nn.Module):
    """`initial_state` and `step`, for a class that has a graph and runs it."""

    _steppers: dict[Any, Streams]
    _parts: dict[Any, tuple[Any, Any]]
    ir: Any
    _device: Any
    _evaluation: Any
    _mode: Any
    _part: Any

    def initial_state(
        self,
        batch: int | None = None,
        over: str | None = None,
        lengths: Mapping[str, Any] | None = None,
        **inputs: Tensor,
    ) -> State:
        """The states before the first position, (batch, *axes, *shape) by name, for `step`.

        Inputs that do not vary over the axis (an encoder's source), with the `lengths` of their
        axes, are given here once: what the steps need of them is computed, and kept with the
        states. Without them states that start from what inputs say are left out, and every step
        takes these inputs and computes all that comes of them anew.
        """
        found = self._stepping(over)
        axis, whole = found.whole.axis, found.whole
        if inputs or lengths:
            streaming.before_steps(whole.ir, axis, inputs, lengths or {})
        device = self._device()
        if not found.names or (not inputs and streaming.still(whole.ir, axis)):
            sizes = _sizes(whole.ir, 1 if batch is None else batch)
            call = read.Call({}, sizes, {}, {}, device or torch.device("cpu"))
            return self._begin(whole, call)
        before, steps = found.before, found.steps
        call = read.read(before.ir, inputs, lengths, None, device)
        _same_batch(batch, call, bool(inputs))
        made, _, _ = before._run(call, False, frozenset(), frozenset())
        ragged = {a: n for a, n in call.lengths.items() if a in steps.ir.axes}
        sizes = {**_sizes(steps.ir, call.sizes[BATCH]), **call.sizes}
        _, rest = self.parts(axis)
        first = rest._begin(steps, read.Call(made, sizes, ragged, {}, call.device))
        return {**first, **made, **{f"{LENGTHS}{a}": n for a, n in ragged.items()}}

    def step(
        self,
        state: Mapping[str, Tensor],
        over: str | None = None,
        lengths: Mapping[str, Any] | None = None,
        **inputs: Tensor,
    ) -> tuple[Any, State]:
        """Advance by one position: (outputs, states), from the states of the step before.

        Inputs that vary over the axis are given for one position, (batch, *shape). Others were
        given to `initial_state`; or they are given here, whole, with the `lengths` of their axes,
        and what comes of them is computed at every step. Causal attention keeps among the states
        what it attends to of earlier positions, under `torch.no_grad()` without copying it. States
        are never changed: a step may be taken again from an older one. Raises StepError where the
        graph needs more than this and earlier positions, CallError where a call does not fit.
        """
        found, device = self._stepping(over), self._device()
        axis, names = found.whole.axis, found.names
        kept = bool(names) and all(name in state for name in names)
        streaming.in_steps(found.whole.ir, axis, inputs, lengths or {}, kept)
        if not kept:
            return _advance(found.whole, state, lengths, inputs, device)
        declared = read.declared(found.steps.ir)
        for name in names:
            node = declared[name]
            state_cache.checked(name, state[name], node.attrs["over"], tuple(node.shape))
        past = {k: v for k, v in state.items() if k in names or k.startswith(LENGTHS)}
        ragged = {k[len(LENGTHS) :]: v for k, v in past.items() if k.startswith(LENGTHS)}
        own = {k: v for k, v in state.items() if k not in past}
        given = {**inputs, **{k: past[k] for k in names}}
        y, own = _advance(found.steps, own, {**ragged, **(lengths or {})}, given, device)
        return y, {**own, **past}

    def parts(self, axis: str) -> tuple[Any, Any]:
        """What does not vary over an axis, if anything, and the rest: models of these parameters.

        The first gives as outputs what the second takes as inputs.
        """
        key = (self._mode(), axis)
        if key not in self._parts:
            cut = _cut(self.ir, axis)
            before = None if cut.before is None else self._part(cut.before)
            self._parts[key] = before, self._part(cut.steps)
        return self._parts[key]

    def _begin(self, stream: Stream, call: read.Call) -> State:
        """States and caches before the first position, as far as what is known says."""
        run = self._evaluation(call, streaming.knowable(stream.ir, stream.axis, call.sizes))
        known = {*call.sizes, *(c.copy for c in stream.caches)}
        fit = [c for c in stream.caches if known >= {*c.over}]
        past = {c.name: state_cache.empty(c, call.sizes, call.device) for c in fit}
        return {**streaming.initial(stream.ir, run, stream.axis), **past}

    def _stepping(self, over: str | None) -> Streams:
        """The models of one step along an axis, by default the one axis that there is."""
        key = (self._mode(), over)
        if key not in self._steppers:
            axis = streaming.stream_axis(self.ir, over)
            before, steps = self.parts(axis)
            names = [] if before is None else list(before.ir.outputs)
            whole = self._along(axis)
            rest = steps._along(axis) if names else whole
            self._steppers[key] = Streams(whole, before, names, rest)
        return self._steppers[key]

    def _along(self, axis: str) -> Stream:
        ir = self.ir
        if not copies(ir, axis):
            return Stream(axis, ir, self, ir, [])
        context = StepContext(axis=axis, title=f"a step along {axis}")
        step = run(Stage.STEP, ir, context)
        return Stream(axis, ir, self._part(step), step, context.caches)


def _cut(ir: IR, axis: str) -> InvariantSplit:
    """A graph cut where values stop being the same at every position of an axis."""
    context = StepContext(axis=axis, title=f"steps along {axis}")
    run(Stage.INVARIANTS, ir, context)
    assert context.cut is not None
    return context.cut


def _advance(
    stream: Stream,
    state: Mapping[str, Tensor],
    lengths: Mapping[str, Any] | None,
    inputs: Mapping[str, Tensor],
    device: torch.device | None,
) -> tuple[Any, State]:
    """One step of a graph, all inputs given."""
    axis, ir, caches = stream.axis, stream.ir, stream.caches
    _no_lengths(stream, lengths)
    given = streaming.widened(ir, axis, inputs)
    if any(c.name not in state for c in caches):
        call = read.read(ir, given, None, None, device)
        empty = {c.name: state_cache.empty(c, call.sizes, call.device) for c in caches}
        state = {**empty, **state}
    past = {c.name: state_cache.opened(c, state[c.name]) for c in caches}
    own = {k: v for k, v in state.items() if k not in past}
    call = read.read(stream.step, {**given, **past}, lengths, own, device)
    outputs, final, _ = stream.model._run(call, True, frozenset(), frozenset())
    past = {name: state_cache.kept(x, outputs.pop(name)) for name, x in past.items()}
    for name, value in outputs.items():
        axes = Value.order(ir, ir.outputs[name])
        if axis in axes:
            outputs[name] = value.squeeze(1 + axes.index(axis))
    kept = {n.attrs["key"] for n in ir if n.op == "delay" and n.attrs["axis"] == axis}
    own = {k: v for k, v in final.items() if k in kept or k == f"@{axis}"}
    result: Any = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    return result, {**own, **past}


def _sizes(ir: IR, batch: int) -> dict[str, int]:
    """The lengths that a graph itself says, of a batch."""
    return {BATCH: batch, **{a: x.length for a, x in ir.axes.items() if x.length}}


def _same_batch(batch: int | None, call: read.Call, brought: bool) -> None:
    """The batch asked for is that of the inputs, where these bring one."""
    if not brought:
        call.sizes[BATCH] = 1 if batch is None else batch
    elif batch not in (None, call.sizes[BATCH]):
        raise InputShapeError(
            "inputs and `batch` disagree about the number of examples",
            got=f"batch={batch}, and inputs of {call.sizes[BATCH]}",
            wanted="one number",
            fix="leave `batch` out: inputs say it",
        )


def _no_lengths(stream: Stream, lengths: Mapping[str, Any] | None) -> None:
    if stream.caches and stream.axis in (lengths or {}):
        raise LengthsError(
            f"a step of attention along '{stream.axis}' takes no lengths of it",
            got=f"lengths of '{stream.axis}'",
            wanted=f"a position of '{stream.axis}' of every example",
            fix="stream examples that have ended further on, and drop what they give",
        )
