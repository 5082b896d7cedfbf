"""The compiled model: an nn.Module with its source's parameters, called on tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphnn import calls
from graphnn.backends import reference
from graphnn.backends.torch import module as torch_backend
from graphnn.backends.torch.module import Program
from graphnn.errors import BackendError, StepError
from graphnn.graph import Graph
from graphnn.ir import BATCH, IR, Node
from graphnn.ops.table import OPS
from graphnn.planner.check import check
from graphnn.planner.choose import Target
from graphnn.planner.partition import carried
from graphnn.planner.plan import SWITCHABLE, Plan, Variant, plan
from graphnn.planner.states import FINAL
from graphnn.planner.trace import Trace, trace

Tensor = torch.Tensor
BACKENDS = ("auto", "torch", "reference")


class Compiled(nn.Module):
    """A graph made callable. Made by `gn.compile`.

    It has the parameters, buffers and submodules of its source under the same names, so
    `state_dict`, optimizers, `to`, `train` and the wrappers of torch work on it as on any module.
    """

    def __init__(
        self, source: nn.Module | Graph, backend: str, passes: frozenset[str], recompute: bool
    ):
        super().__init__()
        owner = source.owner if isinstance(source, Graph) else source
        for kept in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[kept] = owner.__dict__[kept]
        self.__dict__["_source"], self.__dict__["_owner"] = source, owner
        self.training = owner.training
        self.backend, self._passes, self._recompute = backend, passes, recompute
        self._forget()
        self._traced()

    def _forget(self) -> None:
        self.__dict__["_traces"] = {}
        self.__dict__["_plans"] = {}
        self.__dict__["_programs"] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        for name in ("_traces", "_plans", "_programs"):
            state[name] = {}
        return state

    def train(self, mode: bool = True) -> Compiled:
        """Training or evaluation mode, of the source's modules too."""
        super().train(mode)
        self._owner.training = mode
        self._traced()
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Compiled:
        super()._apply(fn, recurse)
        self._forget()
        self._traced()
        return self

    def _mode(self) -> tuple[Any, ...]:
        """What a trace depends on besides the source: training flags and floating dtypes."""
        flags = tuple(m.training for m in self._owner.modules())
        return (flags, self._floating())

    def _floating(self) -> torch.dtype | None:
        for p in self._owner.parameters():
            if p.dtype.is_floating_point:
                return p.dtype
        return None

    def _traced(self) -> Trace:
        mode = self._mode()
        if mode not in self._traces:
            traced = trace(self._source)
            traced.ir = check(traced.ir)
            self._traces[mode] = traced
        return self._traces[mode]  # type: ignore[no-any-return]

    @property
    def ir(self) -> IR:
        """The checked graph, before planning."""
        return self._traced().ir

    @property
    def plan(self) -> Plan:
        """The plan of a call without lengths and without a given state."""
        return self._planned(Variant())

    def _planned(self, variant: Variant) -> Plan:
        key = (self._mode(), variant)
        if key not in self._plans:
            ir = self.ir
            self._plans[key] = plan(ir, variant, carried(ir), self._passes)
        return self._plans[key]  # type: ignore[no-any-return]

    def _program(self, variant: Variant) -> Program:
        key = (self._mode(), variant)
        if key not in self._programs:
            planned = self._planned(variant)
            self._programs[key] = torch_backend.build(
                planned.ir, planned.order, self.training, planned.passes
            )
        return self._programs[key]  # type: ignore[no-any-return]

    def source(self) -> str:
        """The code generated for a call without lengths."""
        return self._program(Variant()).sources()

    def _device(self) -> torch.device | None:
        first = next(self._owner.parameters(), None)
        return None if first is None else first.device

    def forward(
        self,
        *args: Tensor,
        lengths: Mapping[str, Any] | None = None,
        state: Mapping[str, Tensor] | None = None,
        return_state: bool = False,
        **inputs: Any,
    ) -> Any:
        """Run the graph on (batch, *axes, *shape) tensors, one a declared input.

        `lengths` gives each example's number of positions along an axis; `state` what states start
        from; with `return_state` the result is (outputs, final states). One output is returned as
        a tensor, several as a dict. Raises a CallError that names what does not fit.
        """
        ir = self.ir
        inputs = {**dict(zip(calls.declared(ir), args, strict=False)), **inputs}
        call = calls.read(ir, inputs, lengths, state, self._device())
        outputs, final = self._run(call, return_state)
        value = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return (value, final) if return_state else value

    def _run(self, call: calls.Call, finals: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if self.backend == "reference":
            return self._reference(call, finals)
        target = Target(call.device.type, torch.compiler.is_compiling())
        variant = Variant(frozenset(call.lengths), frozenset(call.state), finals, target)
        program = self._program(variant)
        parameters = [self._lookup(n, call.device) for n in program.parameters]
        given = {**call.inputs, **{f"state {k}": v for k, v in call.state.items()}}
        values = program.main(parameters, given, call.lengths, call.sizes, call.device)
        outputs, final = {}, {}
        for name, value in zip(program.outputs, values, strict=True):
            if name.startswith(FINAL):
                final[name[len(FINAL) :]] = value
            else:
                outputs[name] = value
        return outputs, {**final, **self._positions(call, finals)}

    def _positions(self, call: calls.Call, finals: bool) -> dict[str, Tensor]:
        """Where the next call's positions begin, for graphs that ask for them (`gn.index`)."""
        asked = {n.attrs["axis"] for n in self.ir if n.op == "index"} if finals else set()
        return {
            f"@{a}": call.state.get(f"@{a}", torch.zeros((), dtype=torch.int64)) + call.sizes[a]
            for a in sorted(asked)
            if self.ir.axes[a].length is None and self.ir.axes[a].copy_of is None
        }

    def _reference(
        self, call: calls.Call, finals: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        ir = self.ir
        run = reference.Reference(
            ir,
            lambda n: self._lookup(n, call.device),
            call.inputs,
            call.sizes,
            call.lengths,
            call.state,
            self.training,
            call.device,
        )
        keep = [ir[i].attrs["key"] for i in carried(ir)] if finals else []
        outputs, final = reference.evaluate(run, keep)
        return outputs, {**final, **self._positions(call, finals)}

    def _lookup(self, node: Node, device: torch.device) -> Tensor:
        key = node.attrs["key"]
        if node.op == "tensor":
            return self._traced().constants[key].to(device)
        path, _, name = key.rpartition(".")
        holder = self._owner.get_submodule(path)
        tensor = holder._parameters.get(name)
        return holder._buffers[name] if tensor is None else tensor  # type: ignore[return-value]

    def initial_state(self, batch: int = 1) -> dict[str, Tensor]:
        """The states before the first position, to stream from with `step`."""
        raise StepError("not yet")


def compile(
    source: nn.Module | Graph,
    backend: str = "auto",
    *,
    skip: Sequence[str] = (),
    recompute: bool = False,
) -> Compiled:
    """Check, plan and compile a graph, or a module with a `graph(self, g)` method.

    `backend` is "auto" (PyTorch), "torch" or "reference". `skip` names passes to leave out (the
    result is the same, slower); `recompute` computes pointwise values again in the backward rather
    than saving them. Raises GraphError where the graph is wrong.
    """
    if backend not in BACKENDS:
        raise BackendError(
            f"there is no backend '{backend}'",
            got=repr(backend),
            wanted=f"one of {', '.join(BACKENDS)}",
            fix="backend='auto' takes the fastest there is",
        )
    unknown = set(skip) - set(SWITCHABLE)
    if unknown:
        raise BackendError(
            f"there is no pass {sorted(unknown)} to skip",
            got=list(skip),
            wanted=f"passes among {list(SWITCHABLE)}",
            fix="check the spelling",
        )
    return Compiled(source, backend, frozenset(SWITCHABLE) - set(skip), recompute)
