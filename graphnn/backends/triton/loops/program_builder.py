"""The frame of a loop's program: its rows, what it reads and stores, its states and its names."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from graphnn.backends.torch.codegen.scope import Scope
from graphnn.backends.triton.elements import (
    element_kind,
    located,
    name_of,
    note_of,
    storage_kind,
    take_name,
)
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.program import LoopProgram, LoopState, Op, Tensor, Unsupported
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop

# the positions of a block axis of unknown length that kernels are tried for
MAX_BLOCK_AXIS = 128


class ProgramBuilder:
    """Collects the operations of a loop, or of a phase of one step.

    `nodes` are those of a step. A phase has no `loop`, but the `scope` of the step's variables.
    `named` maps nodes to the operations that compute them, `reads` are the nodes that become
    arguments. A step may read all positions of one axis, the block axis (`block_axis`).
    """

    def __init__(
        self,
        ir: IR,
        nodes: Sequence[int],
        name: str,
        loop: Loop | None = None,
        scope: Scope | None = None,
    ):
        self.ir, self.nodes, self.name, self.scope = ir, nodes, name, scope
        self.dropped = scope.dropped if scope else ()
        self.inside = set(nodes)
        self.axis = loop.axis if loop else ""
        self.states = loop.states if loop else []
        self.reverse = loop.reverse if loop else False
        axes = frozenset().union(*(ir[i].axes for i in nodes)) - {self.axis}
        self.block_axis, self.most, self.open = self._whole_axis() if loop else ("", 0, False)
        self.rows = self._layout(axes - {self.block_axis})
        self.ops: dict[str, Op] = {}
        self.op_names: dict[str, int] = {}
        self.arguments: dict[str, int] = {}
        self.named: dict[int, str] = {}
        self.tensors: dict[int, Tensor] = {}
        self.reads: list[int] = []

    def program(self, kept: Sequence[int]) -> LoopProgram:
        """Return the program of the operations so far; it stores the nodes `kept`."""
        return LoopProgram(
            self.name,
            self.axis,
            self.rows,
            self.reverse,
            tuple(self.tensors.values()),
            tuple(self.ops.values()),
            tuple(self._state(self.ir[d]) for d in self.states),
            tuple((self.named[i], self._stored(self.ir[i])) for i in kept),
            self.block_axis,
            self.most,
            self.open,
        )

    def _whole_axis(self) -> tuple[str, int, bool]:
        """Return the block axis, its largest length, and whether calls may have a longer one."""
        over: set[str] = set()
        for node in (self.ir[i] for i in self.nodes):
            over |= {node.attrs["axis"]} if OPS[node.op].family == "axis" else set()
            over |= node.attrs.get("contract", set()) - set(self.dropped)
        if not over:
            return "", 0, False
        if len(over) > 1:
            axes = " and of ".join(sorted(over))
            raise Unsupported(f"a step needs all positions of {axes}")
        (axis,) = over
        length = self.ir.axes[axis].length
        return axis, length or MAX_BLOCK_AXIS, length is None

    def _layout(self, axes: Iterable[str]) -> tuple[str, ...]:
        """Return axes in the order of a tensor's dimensions, without those of outer loops."""
        return tuple(a for a in self.ir.layout(axes) if a not in self.dropped)

    def put(self, op: Op) -> str:
        """Add an operation; returns its name."""
        self.ops[op.name] = op
        return op.name

    def add(self, node: Node, kind: str, args: Sequence[str], **attrs: Any) -> str:
        """Add the operation that computes a node's value; returns its name."""
        name = take_name(name_of(node), self.op_names)
        op = Op(name, kind, tuple(args), node.shape, element_kind(node), attrs, note_of(node))
        self.named[node.id] = self.put(op)
        return name

    def make(
        self,
        wanted: str,
        kind: str,
        args: Sequence[str],
        shape: tuple[int, ...],
        dtype: str = "float",
        note: str | None = None,
        **attrs: Any,
    ) -> str:
        """Add an operation whose value is no node's; returns its name.

        It gets the name `wanted`, or one with a number, and the note of the operation `wanted`
        unless another is given.
        """
        if note is None:
            note = self.ops[wanted].note if wanted in self.ops else ""
        name = take_name(wanted, self.op_names)
        return self.put(Op(name, kind, tuple(args), shape, dtype, attrs, note))

    # values from outside the loop

    def outside(self, node: Node) -> None:
        """Add a value from outside: a read, or a view of one, which needs no memory."""
        if node.id in self.named:
            return
        if node.op == "const":
            self.add(node, "const", (), value=node.attrs["value"])
        elif node.op == "size":
            self.add(node, "size", (), axis=node.attrs["axis"])
        elif OPS[node.op].family == "view" and node.axes and self._in_memory(node.inputs[0]):
            self.outside(self.ir[node.inputs[0]])
            self.view(node)
        elif self._is_shifted_read(node):
            self._shifted_read(node)
        elif "places" in node.attrs and self.scope is None:
            law = {"law": node.attrs["kind"], "p": float(node.attrs["p"])}
            self.add(node, "draw", (), tensor=self._tensor(node), **law)
        else:
            self.add(node, "read", (), tensor=self._tensor(node))

    def view(self, node: Node) -> None:
        """Add a slice, a permutation, an expansion or a padding of its first operand."""
        x = self.ir[node.inputs[0]]
        first = int(node.op == "pad")  # padding is zero, so the positions start at one
        positions = torch.arange(first, first + math.prod(x.shape)).reshape(x.shape)
        run = OPS[node.op].run
        assert run is not None
        moved: np.ndarray = (run(positions, **node.attrs) - first).reshape(-1).numpy()
        self.add(node, "view", [self.named[x.id]], maps=[moved])

    def _in_memory(self, i: int) -> bool:
        """Return whether a value is in memory: within a step, only what phases have stored is."""
        return self.scope is None or i in self.scope.names or self.ir[i].op == "const"

    def _tensor(self, node: Node) -> Tensor:
        """Return the argument for a value from outside the loop."""
        if node.id not in self.tensors:
            self.reads.append(node.id)
            name = take_name(name_of(node), self.arguments)
            self.tensors[node.id] = self._argument(name, node)
        return self.tensors[node.id]

    def _argument(self, name: str, node: Node) -> Tensor:
        if "places" in node.attrs and self.scope is None:
            return Tensor(name, node.shape, node.attrs["places"], "seed")
        kind = storage_kind(node, self.ir.floating)
        return Tensor(name, node.shape, self._layout(node.axes), kind)

    def _is_shifted_read(self, node: Node) -> bool:
        """Return whether a delay reads a whole sequence that exists before the loop."""
        if node.op != "delay" or not self.axis or node.attrs["axis"] != self.axis:
            return False
        after = self.ir.closings[node.id]
        return after not in self.inside and self.ir[after].axes == node.axes

    def _shifted_read(self, node: Node) -> None:
        for i in node.inputs:
            self.outside(self.ir[i])
        after = self.ir[self.ir.closings[node.id]]
        inits = tuple(self.named[i] for i in node.inputs)
        self.add(node, "read", inits, tensor=self._tensor(after), shift=node.attrs["steps"])

    # the tensors that a step stores

    def _stored(self, node: Node) -> Tensor:
        name = take_name(f"{self.named[node.id]}_out", self.arguments)
        kind = storage_kind(node, self.ir.floating)
        return Tensor(name, node.shape, self._layout(node.axes), kind)

    def _state(self, node: Node) -> LoopState:
        inits = tuple(self.named[i] for i in node.inputs)
        after = self.named[self.ir.closings[node.id]]
        return LoopState(self.named[node.id], abs(node.attrs["steps"]), inits, after)

    def check(self) -> None:
        """Raise Unsupported for values that no kernel can have, whatever the sizes of a call."""
        for node in (self.ir[i] for i in self.nodes):
            storage_kind(node, self.ir.floating)
            if any(0 in n.shape for n in (node, *self.ir.operands(node))):
                raise Unsupported(f"{located(node)} has, or reads, a value without elements")
