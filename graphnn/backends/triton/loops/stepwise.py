"""Writes a loop step by step for a GPU: torch matmuls, and one kernel per phase between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from graphnn.backends.torch.codegen.code import Expression, For, Line, assign, code, do, joined
from graphnn.backends.torch.codegen.loop import initial, read_sources
from graphnn.backends.torch.codegen.operations import express, is_linear, is_transposed
from graphnn.backends.torch.codegen.scope import (
    DTYPE,
    Scope,
    dtype_text,
    empty,
    origin,
    sizes_text,
    steps_text,
)
from graphnn.backends.triton.elements import kernel_argument
from graphnn.backends.triton.loops.phases import Phase, schedule
from graphnn.ir.graph import Node
from graphnn.kernels.ir.symbols import quoted
from graphnn.planner.core.regions import Loop, Whole


class PhaseLowering(Protocol):
    """Makes the kernel of a phase: its variable, the nodes it reads, and axes; or None."""

    def phase(self, s: Scope, nodes: list[int], kept: list[int], name: str) -> Called | None: ...


Called = tuple[Expression, list[int], tuple[str, ...]]


class StepWriter:
    """Writes one loop. `keep` are the nodes that the outer scope reads."""

    def __init__(self, outer: Scope, loop: Loop, keep: set[int], name: str, phases: PhaseLowering):
        self.ir, self.loop, self.outer, self.name = outer.ir, loop, outer, name
        self.s = Scope(outer.ir, (*outer.dropped, loop.axis), outer)
        self.next_of = {d: self.ir.closings[d] for d in loop.states}
        self.keep = keep | set(self.next_of.values())
        self.phases, self.users = phases, outer.ir.users()
        self.entered: set[int] = set()
        self.before: list[Line] = []
        self.step: list[Line] = []
        self.sources: dict[str, Expression] = {}
        self.nodes = [i for r in loop.body if isinstance(r, Whole) for i in r.nodes]

    def write(self) -> list[Line]:
        """The statements of the loop. Afterwards, `outer` knows the values in `keep`."""
        self._enter()
        work = [i for i in self.nodes if i not in self.loop.states]
        parts = schedule(self.ir, [i for i in work if self.ir[i].op not in ("const", "size")])
        for k, part in enumerate(parts):
            if isinstance(part, Phase):
                self._phase(part, f"{self.name}_phase_{k}")
            else:
                self._torch(self.ir[part])
        for d in self.loop.states:
            if d in self.next_of.values():
                # one state is the next value of another: store the value that this step read
                self._store(self.ir[d])
        return self._assemble()

    def _enter(self) -> None:
        """Declare step variables for values from outside, and for the states."""
        delays = [i for i in self.nodes if i in self.ir.closings and i not in self.loop.states]
        reads = [j for i in self.nodes for j in self.ir[i].inputs]
        for j in dict.fromkeys([*reads, *(self.ir.closings[d] for d in delays)]):
            self._enter_one(j)
        for d in self.loop.states:
            self.s.declare(self.ir[d])

    def _enter_one(self, i: int) -> None:
        """Declare the step variable of a value from outside that varies over the loop."""
        node = self.ir[i]
        outside = i not in self.loop.nodes and node.op != "const"
        if outside and self.loop.axis in node.axes and i not in self.entered:
            self.entered.add(i)
            whole = self.outer.var(i)
            self.s.names[i] = self.s.fresh(f"{whole.text}_t")
            self.sources[self.s.names[i].text] = self._steps(whole, node)

    def _steps(self, whole: Expression, node: Node) -> Expression:
        return steps_text(self.outer, self.loop, whole, node)

    def _buffer(self, scope: Scope, node: Node, name: Expression) -> None:
        kind, sizes = dtype_text(self.ir, node.dtype), sizes_text(scope, node)
        self.before.append(assign(name, empty(sizes, kind)))

    def _sequence(self, node: Node) -> Expression:
        """Allocate a buffer over the whole axis for a node. Returns the variable of one step."""
        whole = self.s.fresh(f"{node.name or node.op}_all")
        self._buffer(self.outer, node, whole)
        self.outer.names[node.id] = whole
        step = self.s.fresh(node.name or node.op)
        self.sources[step.text] = self._steps(whole, node)
        return step

    def _torch(self, node: Node) -> None:
        if node.op == "einsum" and (operands := self._matmul_operands(node)):
            out = self._sequence(node) if node.id in self.keep else self._step_buffer(node.id)
            self.s.names[node.id] = out
            self.step.append(do(code("torch.mm({}, out={})", operands, out), origin(node)))
            return
        name = self.s.fresh(node.name or node.op)
        self.step.append(assign(name, express(self.s, node), origin(node)))
        self.s.names[node.id] = name
        if node.id in self.keep:
            self._store(node)

    def _matmul_operands(self, node: Node) -> Expression | None:
        """The operands of torch.mm for rows times a weight, or None for another einsum."""
        a, b = (self.ir[i] for i in node.inputs)
        plain = len(self.s.axes(a)) == 1 and len(a.shape) == 1 and len(b.shape) == 2
        if not plain or node.attrs["contract"] - set(self.s.dropped):
            return None
        if is_linear(self.s, a, b, node.attrs["sub"]):
            return code("{}, {}.t()", self.s.var(a.id), self.s.var(b.id))
        if is_transposed(self.s, a, b, node.attrs["sub"]):
            return code("{}, {}", self.s.var(a.id), self.s.var(b.id))
        return None

    def _store(self, node: Node) -> None:
        step = self._sequence(node)
        self.step.append(do(code("{}.copy_({})", step, self.s.names[node.id])))

    def _phase(self, phase: Phase, name: str) -> None:
        """Call one kernel, which writes the values that later parts or the outer scope read."""
        inside = set(phase.nodes)
        read = {i for i in inside if any(u not in inside for u in self.users[i])}
        written = [i for i in phase.nodes if i in self.keep or i in read]
        called = self.phases.phase(self.s, phase.nodes, written, name)
        if called is None:
            for i in phase.nodes:
                self._torch(self.ir[i])
            return
        kernel, reads, axes = called
        for i in written:
            self.s.names[i] = self._sequence(self.ir[i]) if i in self.keep else self._step_buffer(i)
        for i in reads:
            self._enter_one(i)
        tensors = joined(kernel_argument(self.s, i) for i in reads)
        outs = joined(self.s.names[i] for i in written)
        sizes = lengths_text(self.s, axes)
        self.step.append(
            do(code("{}.into([{}], [{}], {}, {})", kernel, tensors, outs, sizes, DTYPE))
        )

    def _step_buffer(self, i: int) -> Expression:
        """Allocate a buffer for one step."""
        node = self.ir[i]
        name = self.s.fresh(node.name or node.op)
        self._buffer(self.s, node, name)
        return name

    def _starts(self) -> None:
        """For each state, list its initial values and then the values that steps write."""
        for d in self.loop.states:
            node, after = self.ir[d], self.ir[self.next_of[d]]
            count = abs(node.attrs["steps"])
            slots = [node.inputs[k if len(node.inputs) > 1 else 0] for k in range(count)]
            first = joined(initial(self.outer, self.s, node, i) for i in slots)
            whole = self.outer.var(after.id)
            whole = whole if after.axes == node.axes else self.outer.full(after.id, node)
            like = node if after.axes != node.axes else after
            self.sources[self.s.names[d].text] = code("[{}, *{}]", first, self._steps(whole, like))

    def _assemble(self) -> list[Line]:
        self._starts()
        return [*self.before, For(read_sources(self.sources, self.step), self.step)]


def lengths_text(s: Scope, axes: Iterable[str]) -> Expression:
    """A dict of the lengths of axes by name, as code."""
    return code("{{{}}}", joined(code("{}: {}", quoted(a), s.size(a)) for a in axes))
