"""A network: a source of graphs with its traces, plans and programs, and how a call runs on them.

A compiled model holds one network; streaming makes further networks of parts of its graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphnn.backends import reference
from graphnn.backends.torch import program as torch_backend
from graphnn.backends.torch.program import Program
from graphnn.backends.torch.runtime.active_transforms import outside_transforms, under_transform
from graphnn.errors import BackendError, InputDeviceError
from graphnn.frontend.graph import Graph
from graphnn.frontend.trace import Trace, trace
from graphnn.ir.dtypes import floating
from graphnn.ir.graph import IR, Node
from graphnn.planner.boundary.states import FINAL, RECORD
from graphnn.planner.core.regions import carried
from graphnn.planner.loops.choose import Target
from graphnn.planner.observe import Recorded, recording
from graphnn.planner.pipeline import Plan, Variant, checked, plan, requested
from graphnn.runtime.call import registry
from graphnn.runtime.call.options import Options
from graphnn.runtime.call.read import Call

Tensor = torch.Tensor
# outputs, final states, and sequences of states, each by name
Results = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]
# traces that are kept: training and evaluation, and values of attributes
MOST_TRACES = 8


class Network:
    """A graph, or a module that makes one, with all that is compiled from it.

    The source is traced again if an attribute that its graph depends on has changed. Plans and
    programs are made when they are first needed and kept with their trace.
    """

    def __init__(self, source: nn.Module | Graph, options: Options):
        self.source, self.options = source, options
        self.owner: nn.Module = source.owner if isinstance(source, Graph) else source
        self.moved: torch.dtype | None = None  # the dtype that the model was last moved to
        self.forget()
        self.current()

    def forget(self) -> None:
        """Drop all traces, plans and programs, for parameters that changed device or dtype."""
        self.number = registry.entered(self)
        self.traces: list[Trace] = []
        self.plans: dict[tuple[int, Variant], Plan] = {}
        self.programs: dict[tuple[int, Variant], Program] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = ("source", "options", "owner", "moved")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.forget()

    @property
    def ir(self) -> IR:
        """The checked graph, before planning."""
        return self.current().ir

    @property
    def device(self) -> torch.device | None:
        """The device of the parameters, or None if there are none."""
        first = next(self.owner.parameters(), None)
        return None if first is None else first.device

    @property
    def target(self) -> Target:
        """The target of plans for the device of the parameters."""
        return Target() if self.device is None else self.target_of(self.device)

    def target_of(self, device: torch.device, traced: bool = False) -> Target:
        """The target of plans for a device. Only kernels are planned for the dtype of autocast."""
        found = Target.of(device, traced)
        if found.autocast and not self.options.kernels(found):
            return Target(found.device, found.traced, found.gpu)
        return found

    def current(self) -> Trace:
        """The trace for the present modes and attributes: the last, an earlier, or a new one."""
        if torch.compiler.is_compiling():
            number = registry.traced(self.number, self._flags())
            return next(t for t in self.traces if t.number == number)
        if self.traces and self.traces[-1].holds():
            return self.traces[-1]
        return self.refreshed()

    @outside_transforms
    def refreshed(self) -> Trace:
        """The current trace, moved to the end of the list. Drops the oldest beyond MOST_TRACES."""
        found = next((t for t in reversed(self.traces) if t.holds()), None)
        if found is None:
            found = trace(self.source, self.moved)
            found.unchecked, found.ir = found.ir, checked(found.ir)
        others = [t for t in self.traces if t is not found]
        for gone in others[: len(others) + 1 - MOST_TRACES]:
            self.plans = {k: v for k, v in self.plans.items() if k[0] != gone.number}
            self.programs = {k: v for k, v in self.programs.items() if k[0] != gone.number}
        self.traces = [*others[-(MOST_TRACES - 1) :], found]
        return found

    def _flags(self) -> tuple[Any, ...]:
        """The values whose change torch.compile notices: training flags, and the floating dtype."""
        return (*(m.training for m in self.owner.modules()), self.floating())

    def floating(self) -> torch.dtype:
        """The floating dtype of the model."""
        return floating(self.owner, self.moved)

    def plan(self, variant: Variant) -> Plan:
        """The plan of a variant."""
        key = (self.current().number, variant)
        if key not in self.plans:
            self.plans[key] = self._planned(self.ir, variant)
        return self.plans[key]

    def _planned(self, ir: IR, variant: Variant) -> Plan:
        return plan(ir, variant, carried(ir), self.options.passes_for(variant.target))

    @outside_transforms
    def program(self, variant: Variant, number: int | None = None) -> Program:
        """The generated program of a variant, for the trace of a number (default: the current)."""
        key = (self.current().number if number is None else number, variant)
        if key not in self.programs:
            self.programs[key] = self._generated(self.plan(variant), variant)
        return self.programs[key]

    def _generated(self, planned: Plan, variant: Variant) -> Program:
        return torch_backend.build(
            planned.ir,
            planned.order,
            planned.passes,
            self.options.recompute,
            self.options.lowering(variant.target),
            variant.target.device == "cpu",
        )

    @outside_transforms
    def passes(self, variant: Variant) -> Recorded:
        """The graph after each pass of a variant, which is planned and generated again for it."""
        traced = self.current()
        with recording() as found:
            ir = checked(traced.ir if traced.unchecked is None else traced.unchecked)
            planned = self._planned(ir, variant)
            if self.options.backend != "reference":
                self._generated(planned, variant)
        return found

    def part(self, ir: IR) -> Network:
        """A network of another graph on the same parameters and constants."""
        graph = Graph(ir.name, self.owner)
        graph.ir, graph.constants = ir, self.current().constants
        return Network(graph, self.options)

    def run(
        self,
        call: Call,
        finals: bool = False,
        recorded: frozenset[str] = frozenset(),
        probed: frozenset[str] = frozenset(),
        traced: Trace | None = None,
    ) -> Results:
        """Run a checked call. `finals` asks for final states, `recorded` for sequences of states.

        `probed` states take a value to add at each position: the input "state probe NAME".
        """
        traced = traced or self.current()
        target = self.target_of(call.device, torch.compiler.is_compiling() or under_transform())
        given = frozenset(call.state)
        variant = Variant(frozenset(call.lengths), given, finals, recorded, probed, target)
        run = self._run_reference if self.options.backend == "reference" else self._run_program
        values = run(call, variant, traced)
        split: Results = ({}, {}, {})
        for name, value in values.items():
            kind = 1 if name.startswith(FINAL) else 2 if name.startswith(RECORD) else 0
            split[kind][name[len(("", FINAL, RECORD)[kind]) :]] = value
        outputs, final, sequences = split
        return outputs, {**final, **_positions(call, finals, traced.ir)}, sequences

    def _run_program(self, call: Call, variant: Variant, traced: Trace) -> dict[str, Tensor]:
        _check_device(self.options.backend, call.device)
        program = registry.program_of(self.number, traced.number, variant)
        parameters = [self._tensor(n, call.device, traced) for n in program.parameters]
        given = {**call.inputs, **{f"state {k}": v for k, v in call.state.items()}}
        values = program.main(parameters, given, call.lengths, call.sizes, call.device)
        return dict(zip(program.outputs, values, strict=True))

    def _run_reference(self, call: Call, variant: Variant, traced: Trace) -> dict[str, Tensor]:
        run = self.evaluation(call, requested(traced.ir, variant))
        ir = run.ir
        keep = [ir[i].attrs["key"] for i in carried(ir)] if variant.finals else []
        return reference.evaluate(run, keep)

    def evaluation(self, call: Call, ir: IR) -> reference.Reference:
        """The reference evaluation of a graph on the tensors of a call."""
        traced = self.current()
        return reference.Reference(
            ir,
            lambda n: self._tensor(n, call.device, traced),
            call.inputs,
            call.sizes,
            call.lengths,
            call.state,
            call.device,
        )

    def _tensor(self, node: Node, device: torch.device, traced: Trace) -> Tensor:
        """The tensor of a parameter, buffer or constant."""
        key = node.attrs["key"]
        if node.op == "tensor":
            return traced.constant(key, device)
        path, _, name = key.rpartition(".")
        holder = self.owner.get_submodule(path)
        tensor = holder._parameters.get(name)
        if tensor is None:
            tensor = holder._buffers.get(name)  # type: ignore[assignment]
        # a parametrized tensor is computed each time it is read
        return getattr(holder, name) if tensor is None else tensor  # type: ignore[no-any-return]


def require_program(options: Options) -> None:
    """Raise BackendError for the reference backend, which generates no code."""
    if options.backend == "reference":
        raise BackendError(
            "the reference backend generates no program",
            got="backend 'reference'",
            wanted="a model of another backend",
            fix="gn.compile(net) takes the fastest backend",
        )


def _check_device(backend: str, device: torch.device) -> None:
    wanted = {"triton": "cuda", "interpret": "cpu", "ptx": "cpu"}.get(backend, device.type)
    if device.type != wanted:
        other = "interpret" if backend == "triton" else "triton"
        raise InputDeviceError(
            f"backend '{backend}' runs on {wanted} tensors",
            got=f"inputs and parameters on {device}",
            wanted=f"a {wanted} device",
            fix=f"move them there, or compile with backend='auto' or '{other}'",
        )


def _positions(call: Call, finals: bool, ir: IR) -> dict[str, Tensor]:
    """The first position of the next call, for each axis whose positions the graph reads."""
    if not finals:
        return {}
    indexed = {n.attrs["axis"] for n in ir if n.op == "index"}
    return {
        f"@{a}": call.state.get(f"@{a}", torch.zeros((), dtype=torch.int64)) + call.sizes[a]
        for a in sorted(indexed)
        if ir.axes[a].length is None and ir.axes[a].copy_of is None
    }
