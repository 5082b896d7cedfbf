"""The compiled model: an nn.Module with its source's parameters, called on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphnn.backends import reference
from graphnn.backends.requirements import need_triton
from graphnn.backends.torch import program as torch_backend
from graphnn.backends.torch.program import Program
from graphnn.backends.torch.runtime.active_transforms import unwatched, watched
from graphnn.errors import BackendError, InputDeviceError
from graphnn.frontend.graph import Graph
from graphnn.frontend.mistakes import compilable
from graphnn.frontend.trace import Trace, trace
from graphnn.inspection.views import Telling
from graphnn.ir.dtypes import floating
from graphnn.ir.graph import IR, Node
from graphnn.planner.boundary.states import FINAL, RECORD
from graphnn.planner.core.regions import carried
from graphnn.planner.loops.choose import Target
from graphnn.planner.pipeline import SWITCHABLE, Plan, Variant, checked, plan, requested
from graphnn.runtime.call import read, registry, wrapped
from graphnn.runtime.call.inputs import Refusing
from graphnn.runtime.generation.closed import Generating
from graphnn.runtime.streaming.step import Stepping

Tensor = torch.Tensor
BACKENDS = ("auto", "torch", "triton", "interpret", "reference")
KERNELS = ("triton", "interpret")
FLOAT32 = ("ieee", "tf32x3", "tf32", None)
# what a model makes when first asked, and drops when its parameters change their place or dtype
MADE = ("_plans", "_programs", "_parts", "_steppers")
# drawings of a graph that are kept: training and evaluation, and what an attribute is turned to
MOST_TRACES = 8


class Compiled(Stepping, Generating, Telling, Refusing):
    """A graph made callable. Made by `gn.compile`.

    It has the parameters, buffers and submodules of its source under the same names, so
    `state_dict`, optimizers, `to`, `train` and the wrappers of torch work on it as on any module.
    """

    _source: nn.Module | Graph
    _owner: nn.Module
    _number: int
    _traces: list[Trace]
    _plans: dict[Any, Plan]
    _programs: dict[Any, Program]

    def __init__(
        self,
        source: nn.Module | Graph,
        backend: str,
        passes: frozenset[str],
        recompute: bool | None,
        float32: str | None = None,
    ):
        super().__init__()
        owner = source.owner if isinstance(source, Graph) else source
        for kept in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[kept] = owner.__dict__[kept]
        self.__dict__["_source"], self.__dict__["_owner"] = source, owner
        self.backend = backend
        self._passes, self._recompute, self._float32 = passes, recompute, float32
        self._forget()
        self._traced()

    def _forget(self) -> None:
        """Drop what was planned; under a number of its own the model is found while traced."""
        self.__dict__["_number"] = registry.entered(self)
        self.__dict__.update({name: {} for name in MADE}, _traces=[])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **{name: {} for name in MADE}, "_traces": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._forget()

    @property
    def training(self) -> bool:  # type: ignore[override]
        """Whether the source is in training mode."""
        return self._owner.training if "_owner" in self.__dict__ else True

    @training.setter
    def training(self, mode: bool) -> None:
        if "_owner" in self.__dict__:
            self._owner.training = mode

    def train(self, mode: bool = True) -> Compiled:
        """Training or evaluation mode, of the source's modules too."""
        super().train(mode)
        self._traced()
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        owner = self.__dict__.get("_owner")
        source = owner is not None and name in owner.__dict__ and name not in self.__dict__
        if source and not isinstance(getattr(type(self), name, None), property):
            setattr(owner, name, value)  # an attribute of the source, which its graph reads
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        owner = self.__dict__.get("_owner")
        if owner is not None and name in owner.__dict__:
            return getattr(owner, name)
        return super().__getattr__(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Compiled:
        now = self._floating()
        super()._apply(fn, recurse)
        # nothing else tells a model without parameters where it is moved
        self.__dict__["_moved"] = fn(torch.empty(0, dtype=now)).dtype
        self._forget()
        self._traced()
        return self

    def _mode(self) -> int:
        """The number of the drawing that holds now."""
        return self._traced().number

    def _traced(self) -> Trace:
        """The drawing that holds now: the last one, an earlier one, or a new one."""
        if torch.compiler.is_compiling():
            number = registry.drawn(self._number, self._flags())
            return next(t for t in self._traces if t.number == number)
        traces = self._traces
        if traces and traces[-1].holds():
            return traces[-1]
        return self._found()

    @unwatched
    def _found(self) -> Trace:
        found = next((t for t in reversed(self._traces) if t.holds()), None)
        if found is None:
            found = trace(self._source, self.__dict__.get("_moved"))
            found.ir = checked(found.ir)
        kept = [t for t in self._traces if t is not found]
        for gone in kept[: len(kept) + 1 - MOST_TRACES]:
            self._drop(gone)
        self.__dict__["_traces"] = [*kept[-(MOST_TRACES - 1) :], found]
        return found

    def _drop(self, gone: Trace) -> None:
        """Forget what was made for a drawing."""
        for name in MADE:
            made = self.__dict__[name]
            for key in [k for k in made if isinstance(k, tuple) and k[0] == gone.number]:
                del made[key]

    def _flags(self) -> tuple[Any, ...]:
        """What torch.compile sees change: training flags, and the floating dtype."""
        return (*(m.training for m in self._owner.modules()), self._floating())

    def _floating(self) -> torch.dtype:
        return floating(self._owner, self.__dict__.get("_moved"))

    @property
    def ir(self) -> IR:
        """The checked graph, before planning."""
        return self._traced().ir

    @property
    def plan(self) -> Plan:
        """The plan of a call without lengths and without a given state."""
        return self._planned(Variant(target=self._here()))

    def _here(self) -> Target:
        """The device that the model lies on."""
        device = self._device()
        return Target() if device is None else Target(device.type)

    def _planned(self, variant: Variant) -> Plan:
        key = (self._mode(), variant)
        if key not in self._plans:
            ir = self.ir
            self._plans[key] = plan(ir, variant, carried(ir), self._passes_for(variant.target))
        return self._plans[key]

    def _kernels(self, target: Target) -> bool:
        """Whether loops become Triton kernels: always, never, or on a GPU."""
        return self.backend in KERNELS or (self.backend == "auto" and target.device == "cuda")

    def _passes_for(self, target: Target) -> frozenset[str]:
        if not self._kernels(target):
            return self._passes - {"hops"}
        # asked for by name, kernels leave no loop to torch's layers; what torch's code sinks into
        # its loops, whole-axis operations do as well before a kernel
        return self._passes - ({"match", "sink"} if self.backend in KERNELS else {"sink"})

    @unwatched
    def _program(self, variant: Variant, mode: int | None = None) -> Program:
        key = (self._mode() if mode is None else mode, variant)
        if key not in self._programs:
            planned = self._planned(variant)
            self._programs[key] = torch_backend.build(
                planned.ir,
                planned.order,
                planned.passes,
                self._recompute,
                self._lowering(variant.target),
                variant.target.device == "cpu",
            )
        return self._programs[key]

    def _lowering(self, target: Target) -> Any:
        """What makes kernels of loops, for the backends that have them."""
        if not self._kernels(target):
            return None
        need_triton(self.backend)
        from graphnn.backends.triton import cuda_graphs
        from graphnn.backends.triton.strategy import Lowering
        from graphnn.backends.triton.target import current

        return Lowering(
            self.backend == "interpret",
            current(),
            "resident" in self._passes,
            "fit" in self._passes,
            "cooperative" in self._passes,
            # torch.compile may record graphs of its own
            self.backend != "interpret" and not target.traced and cuda_graphs.enabled(),
            self._float32,
            "tune" in self._passes,
        )

    def _device(self) -> torch.device | None:
        first = next(self._owner.parameters(), None)
        return None if first is None else first.device

    def forward(
        self,
        *args: Tensor,
        lengths: Mapping[str, Any] | None = None,
        state: Mapping[str, Tensor] | None = None,
        return_state: bool = False,
        record: bool | Sequence[str] = False,
        **inputs: Any,
    ) -> Any:
        """Run the graph on (batch, *axes, *shape) tensors, one a declared input.

        `lengths` gives each example's number of positions along an axis; `state` what states start
        from. One output is returned as a tensor, several as a dict; with `return_state` the final
        states follow it, with `record` the sequences of the states it names (True: of all). Raises
        a CallError that names what does not fit.
        """
        self._untraced(args, inputs)
        given = (args, inputs, lengths, state, return_state, record)
        return wrapped.not_compiled(self._called, *given) if watched() else self._called(*given)

    def _called(
        self,
        args: tuple[Tensor, ...],
        inputs: Mapping[str, Any],
        lengths: Mapping[str, Any] | None,
        state: Mapping[str, Tensor] | None,
        return_state: bool,
        record: bool | Sequence[str],
    ) -> Any:
        wrapped.check_whole(self._owner)
        traced = self._traced()
        ir = traced.ir
        call = read.read(ir, read.named(ir, args, inputs), lengths, state, self._device())
        names = read.states(ir, record)
        outputs, final, sequences = self._run(call, return_state, names, frozenset(), traced)
        value = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        extras = [x for x, asked in ((final, return_state), (sequences, record)) if asked]
        return (value, *extras) if extras else value

    def _run(
        self,
        call: read.Call,
        finals: bool,
        recorded: frozenset[str],
        probed: frozenset[str],
        traced: Trace | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        traced = traced or self._traced()
        target = Target(call.device.type, torch.compiler.is_compiling() or watched())
        given = frozenset(call.state)
        variant = Variant(frozenset(call.lengths), given, finals, recorded, probed, target)
        run = self._run_reference if self.backend == "reference" else self._run_torch
        values = run(call, variant, traced)
        split: tuple[dict[str, Tensor], ...] = ({}, {}, {})
        for name, value in values.items():
            kind = 1 if name.startswith(FINAL) else 2 if name.startswith(RECORD) else 0
            split[kind][name[len(("", FINAL, RECORD)[kind]) :]] = value
        outputs, final, sequences = split
        return outputs, {**final, **self._positions(call, finals, traced.ir)}, sequences

    def _run_torch(self, call: read.Call, variant: Variant, traced: Trace) -> dict[str, Tensor]:
        self._check_device(call.device)
        program = registry.program_of(self._number, traced.number, variant)
        parameters = [self._lookup(n, call.device, traced) for n in program.parameters]
        given = {**call.inputs, **{f"state {k}": v for k, v in call.state.items()}}
        values = program.main(parameters, given, call.lengths, call.sizes, call.device)
        return dict(zip(program.outputs, values, strict=True))

    def _check_device(self, device: torch.device) -> None:
        wanted = {"triton": "cuda", "interpret": "cpu"}.get(self.backend, device.type)
        if device.type != wanted:
            other = "triton" if self.backend == "interpret" else "interpret"
            raise InputDeviceError(
                f"backend '{self.backend}' runs on {wanted} tensors",
                got=f"inputs and parameters on {device}",
                wanted=f"a {wanted} device",
                fix=f"move them there, or compile with backend='auto' or '{other}'",
            )

    def _run_reference(self, call: read.Call, variant: Variant, traced: Trace) -> dict[str, Tensor]:
        run = self._evaluation(call, requested(traced.ir, variant))
        ir = run.ir
        keep = [ir[i].attrs["key"] for i in carried(ir)] if variant.finals else []
        return reference.evaluate(run, keep)

    def _evaluation(self, call: read.Call, ir: IR) -> reference.Reference:
        traced = self._traced()
        return reference.Reference(
            ir,
            lambda n: self._lookup(n, call.device, traced),
            call.inputs,
            call.sizes,
            call.lengths,
            call.state,
            call.device,
        )

    def _positions(self, call: read.Call, finals: bool, ir: IR) -> dict[str, Tensor]:
        """Where the next call's positions begin, for graphs that ask for them (`gn.index`)."""
        if not finals:
            return {}
        asked = {n.attrs["axis"] for n in ir if n.op == "index"}
        return {
            f"@{a}": call.state.get(f"@{a}", torch.zeros((), dtype=torch.int64)) + call.sizes[a]
            for a in sorted(asked)
            if ir.axes[a].length is None and ir.axes[a].copy_of is None
        }

    def _lookup(self, node: Node, device: torch.device, traced: Trace) -> Tensor:
        key = node.attrs["key"]
        if node.op == "tensor":
            return traced.constants[key].to(device)
        path, _, name = key.rpartition(".")
        holder = self._owner.get_submodule(path)
        tensor = holder._parameters.get(name)
        if tensor is None:
            tensor = holder._buffers.get(name)  # type: ignore[assignment]
        # a parametrized tensor is computed where it is read
        return getattr(holder, name) if tensor is None else tensor  # type: ignore[no-any-return]

    def _part(self, ir: IR) -> Compiled:
        graph = Graph(ir.name, self._owner)
        graph.ir, graph.constants = ir, self._traced().constants
        return Compiled(graph, self.backend, self._passes, self._recompute, self._float32)


def compile(
    source: nn.Module | Graph,
    backend: str = "auto",
    *,
    skip: Sequence[str] = (),
    recompute: bool | None = None,
    float32: str | None = None,
    tune: bool = True,
) -> Compiled:
    """Check, plan and compile a graph, or a module with a `graph(self, g)` method.

    `backend` is "auto" (kernels on CUDA, PyTorch elsewhere), "triton" (loops as generated kernels),
    "torch", "interpret" (the kernels run by Triton's interpreter on a CPU: slow, for proofs) or
    "reference". `skip` names passes to leave out (the result is the same, slower). `recompute`:
    True computes pointwise values again in the backward rather than saving them, and lets kernels
    draw their noise, and attention its dropout, which then is nowhere in memory; False saves all;
    None takes the faster. `float32` is how kernels multiply float32: "ieee" (plain multiply-adds),
    "tf32x3" (three products of TF32), "tf32" (one), or None, as torch.set_float32_matmul_precision
    says; products that are torch's own always go by that. On a GPU the ways to run a loop, and the
    launches of a kernel, are timed when first called and remembered: which differ in rounding;
    without `tune` a model chooses, the same everywhere. Raises GraphError where the graph is wrong.
    """
    compilable(source)
    if backend not in BACKENDS:
        raise BackendError(
            f"there is no backend '{backend}'",
            got=repr(backend),
            wanted=f"one of {', '.join(BACKENDS)}",
            fix="backend='auto' takes the fastest there is",
        )
    if backend in KERNELS:
        need_triton(backend)
    unknown = set(skip) - set(SWITCHABLE)
    if unknown:
        raise BackendError(
            f"there is no pass {sorted(unknown)} to skip",
            got=list(skip),
            wanted=f"passes among {list(SWITCHABLE)}",
            fix="check the spelling",
        )
    if float32 not in FLOAT32:
        raise BackendError(
            f"float32 is not multiplied as '{float32}'",
            got=f"float32={float32!r}",
            wanted="one of 'ieee', 'tf32x3', 'tf32', or None",
            fix="None does as torch.set_float32_matmul_precision says",
        )
    passes = frozenset(SWITCHABLE) - set(skip) | ({"tune"} if tune else set())
    return Compiled(source, backend, passes, recompute, float32)
