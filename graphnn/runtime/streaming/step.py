"""Streaming: runs a network one position at a time and carries its states and caches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.errors import InputShapeError, LengthsError
from graphnn.frontend.value import Value
from graphnn.ir.graph import BATCH, IR
from graphnn.planner.boundary.invariants import InvariantSplit
from graphnn.planner.boundary.step_graph import Cache, copies
from graphnn.planner.contexts import StepContext
from graphnn.planner.observe import Recorded, recording
from graphnn.planner.pipeline import Stage, run
from graphnn.runtime.call import read
from graphnn.runtime.call.network import Network
from graphnn.runtime.streaming import state_cache
from graphnn.runtime.streaming import stream as streams

Tensor = torch.Tensor
State = dict[str, Tensor]
LENGTHS = "@lengths of "  # prefix of a state that holds the lengths of an axis


@dataclass(frozen=True)
class Stream:
    """A graph along an axis: the network of one step of it, that step's graph, and its caches."""

    axis: str
    ir: IR
    network: Network
    step: IR
    caches: list[Cache]


@dataclass(frozen=True)
class SplitStream:
    """A graph along an axis, whole and split in two networks.

    `invariant` computes what is the same at every position, if anything: its outputs `names` are
    inputs of `steps`.
    """

    whole: Stream
    invariant: Network | None
    names: list[str]
    steps: Stream


class Streaming:
    """Runs a network one position at a time. Its parts are made once per trace and axis."""

    def __init__(self, network: Network):
        self.network = network
        self._parts: dict[tuple[int, str], tuple[Network | None, Network]] = {}
        self._splits: dict[tuple[int, str | None], SplitStream] = {}

    def initial_state(
        self,
        batch: int | None,
        over: str | None,
        lengths: Mapping[str, Any] | None,
        inputs: Mapping[str, Tensor],
    ) -> State:
        """See `Compiled.initial_state`."""
        found = self._split(over)
        axis, whole = found.whole.axis, found.whole
        if inputs or lengths:
            streams.check_initial_inputs(whole.ir, axis, inputs, lengths or {})
        device = self.network.device
        if found.invariant is None or (not inputs and streams.constant_inputs(whole.ir, axis)):
            sizes = _sizes(whole.ir, 1 if batch is None else batch)
            call = read.Call({}, sizes, {}, {}, device or torch.device("cpu"))
            return _begin(self.network, whole, call)
        invariant, steps = found.invariant, found.steps
        call = read.read(invariant.ir, inputs, lengths, None, device)
        _same_batch(batch, call, bool(inputs))
        computed, _, _ = invariant.run(call)
        ragged = {a: n for a, n in call.lengths.items() if a in steps.ir.axes}
        sizes = {**_sizes(steps.ir, call.sizes[BATCH]), **call.sizes}
        _, rest = self.parts(axis)
        first = _begin(rest, steps, read.Call(computed, sizes, ragged, {}, call.device))
        return {**first, **computed, **{f"{LENGTHS}{a}": n for a, n in ragged.items()}}

    def step(
        self,
        state: Mapping[str, Tensor],
        over: str | None,
        lengths: Mapping[str, Any] | None,
        inputs: Mapping[str, Tensor],
    ) -> tuple[Any, State]:
        """See `Compiled.step`."""
        found, device = self._split(over), self.network.device
        axis, names = found.whole.axis, found.names
        prepared = bool(names) and all(name in state for name in names)
        streams.check_step_inputs(found.whole.ir, axis, inputs, lengths or {}, prepared)
        if not prepared:
            return _advance(found.whole, state, lengths, inputs, device)
        declared = read.declared(found.steps.ir)
        for name in names:
            node = declared[name]
            state_cache.check_shape(name, state[name], node.attrs["over"], tuple(node.shape))
        constant = {k: v for k, v in state.items() if k in names or k.startswith(LENGTHS)}
        ragged = {k[len(LENGTHS) :]: v for k, v in constant.items() if k.startswith(LENGTHS)}
        varying = {k: v for k, v in state.items() if k not in constant}
        given = {**inputs, **{k: constant[k] for k in names}}
        y, varying = _advance(found.steps, varying, {**ragged, **(lengths or {})}, given, device)
        return y, {**varying, **constant}

    def passes(self, over: str) -> Recorded:
        """The graph after each pass that splits off one step along an axis."""
        with recording() as found:
            Streaming(self.network)._split(over)
        return found

    def parts(self, axis: str) -> tuple[Network | None, Network]:
        """The network of what does not vary over an axis, if anything, and that of the rest.

        The outputs of the first are inputs of the second.
        """
        key = (self.network.current().number, axis)
        if key not in self._parts:
            self._forget_dropped()
            cut = _cut(self.network.ir, axis)
            invariant = None if cut.before is None else self.network.part(cut.before)
            self._parts[key] = invariant, self.network.part(cut.steps)
        return self._parts[key]

    def _split(self, over: str | None) -> SplitStream:
        """The networks of one step along an axis, by default the only one there is."""
        key = (self.network.current().number, over)
        if key not in self._splits:
            axis = streams.stream_axis(self.network.ir, over)
            invariant, steps = self.parts(axis)
            names = [] if invariant is None else list(invariant.ir.outputs)
            whole = _along(self.network, axis)
            self._splits[key] = SplitStream(
                whole, invariant, names, _along(steps, axis) if names else whole
            )
        return self._splits[key]

    def _forget_dropped(self) -> None:
        """Drop the parts of traces that the network has dropped."""
        kept = {t.number for t in self.network.traces}
        self._parts = {k: v for k, v in self._parts.items() if k[0] in kept}
        self._splits = {k: v for k, v in self._splits.items() if k[0] in kept}


def _along(network: Network, axis: str) -> Stream:
    ir = network.ir
    if not copies(ir, axis):
        return Stream(axis, ir, network, ir, [])
    context = StepContext(axis=axis, title=f"a step along {axis}")
    step = run(Stage.STEP, ir, context)
    return Stream(axis, ir, network.part(step), step, context.caches)


def _cut(ir: IR, axis: str) -> InvariantSplit:
    """A graph cut into what is the same at every position of an axis, and the rest."""
    context = StepContext(axis=axis, title=f"steps along {axis}")
    run(Stage.INVARIANTS, ir, context)
    assert context.cut is not None
    return context.cut


def _begin(network: Network, stream: Stream, call: read.Call) -> State:
    """States and caches before the first position, those that the given inputs determine."""
    ir = streams.without_unknown_noise(stream.ir, stream.axis, call.sizes)
    known = {*call.sizes, *(c.copy for c in stream.caches)}
    sized = [c for c in stream.caches if known >= {*c.over}]
    caches = {c.name: state_cache.empty(c, call.sizes, call.device) for c in sized}
    evaluation = network.evaluation(call, ir)
    return {**streams.initial_states(stream.ir, evaluation, stream.axis), **caches}


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
    given = streams.with_position_axis(ir, axis, inputs)
    if any(c.name not in state for c in caches):
        call = read.read(ir, given, None, None, device)
        empty = {c.name: state_cache.empty(c, call.sizes, call.device) for c in caches}
        state = {**empty, **state}
    extended = {c.name: state_cache.extended(c, state[c.name]) for c in caches}
    carried = {k: v for k, v in state.items() if k not in extended}
    call = read.read(stream.step, {**given, **extended}, lengths, carried, device)
    outputs, final, _ = stream.network.run(call, finals=True)
    written = {name: state_cache.tracked(x, outputs.pop(name)) for name, x in extended.items()}
    for name, value in outputs.items():
        axes = Value.order(ir, ir.outputs[name])
        if axis in axes:
            outputs[name] = value.squeeze(1 + axes.index(axis))
    along = {n.attrs["key"] for n in ir if n.op == "delay" and n.attrs["axis"] == axis}
    carried = {k: v for k, v in final.items() if k in along or k == f"@{axis}"}
    result: Any = next(iter(outputs.values())) if len(outputs) == 1 else outputs
    return result, {**carried, **written}


def _sizes(ir: IR, batch: int) -> dict[str, int]:
    """The lengths of axes that the graph fixes, and the batch size."""
    return {BATCH: batch, **{a: x.length for a, x in ir.axes.items() if x.length}}


def _same_batch(batch: int | None, call: read.Call, given: bool) -> None:
    """Check the batch size that was asked for against that of the inputs, if there are any."""
    if not given:
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
