"""A loop of the graph as a program of the kernels package, operation by operation.

Raises `Unsupported`, with a reason for users, if no single kernel can run the loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from graphnn.backends.torch.codegen.scope import Ends, Scope
from graphnn.backends.triton.elements import (
    CONVERSIONS,
    NARROW_INTEGERS,
    ROUNDED_FLOATS,
    at_site,
    element_kind,
    located,
    name_of,
    note_of,
)
from graphnn.backends.triton.loops.program_builder import ProgramBuilder
from graphnn.backends.triton.loops.ragged import ending
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.ops.registry import OPS
from graphnn.planner.core.regions import Loop, Whole


def loop_program(
    ir: IR, loop: Loop, kept: Sequence[int], name: str, ends: Ends | None = None
) -> tuple[LoopProgram, list[int]]:
    """Return the program of a loop that stores the nodes `kept`, and the nodes it reads, in order.

    If the loop runs over the ragged axis of `ends`, its rows stop at their own lengths, and `ORDER`
    is among the reads.
    """
    if loop.stop is not None:
        raise Unsupported("the loop ends when a value computed in it says so")
    if any(not isinstance(r, Whole) for r in loop.body):
        raise Unsupported("its step contains another loop")
    program, reads = _StepTranslator(ir, loop.nodes, name, loop).run(kept)
    if ends is None or loop.axis != ends.axis:
        return program, reads
    return ending(program, reads, ends)


def phase_program(
    scope: Scope, nodes: Sequence[int], kept: Sequence[int], name: str
) -> tuple[LoopProgram, list[int]]:
    """Return the program of a phase, a part of one step, and the nodes it reads, in order.

    `scope` has the variables of the step.
    """
    return _StepTranslator(scope.ir, nodes, name, scope=scope).run(kept)


class _StepTranslator(ProgramBuilder):
    """Translates the operations of a step, each by a method or by its row of the table."""

    def run(self, kept: Sequence[int]) -> tuple[LoopProgram, list[int]]:
        self.check()
        inits = [i for d in self.states for i in self.ir[d].inputs]
        outside = [i for n in self.nodes for i in self.ir[n].inputs]
        for i in dict.fromkeys([*inits, *outside]):
            if i not in self.inside:
                self.outside(self.ir[i])
        for d in self.states:
            self.add(self.ir[d], "state", ())
        for i in self.nodes:
            if i not in self.states:
                self._translate(self.ir[i])
        return self.program(kept), self.reads

    def _translate(self, node: Node) -> None:
        op = OPS[node.op]
        if op.floats_only and element_kind(node) != "float":
            raise Unsupported(f"{located(node)} is '{node.op}' of integers")
        if node.op in _METHODS:
            _METHODS[node.op](self, node)
        elif op.family == "axis" and op.prelude:
            self._over_block_axis(node)
        elif op.family in ("view", "join"):
            self.view(node)
        elif op.family == "pointwise" and op.triton_text:
            self._pointwise(node)
        else:
            self._refuse(node)

    def _refuse(self, node: Node) -> None:
        if node.op in ("opaque", "vjp"):
            name = node.attrs["called"]
            raise Unsupported(f"torch.{name}{at_site(node)} has no row in the table")
        if OPS[node.op].family == "axis":
            axis = node.attrs["axis"]
            raise Unsupported(f"{located(node)} needs all positions of '{axis}' ({node.op})")
        raise Unsupported(f"{located(node)} is a '{node.op}', which no kernel writes")

    # pointwise operations

    def _pointwise(self, node: Node) -> None:
        args = [self._operand(node, k, i) for k, i in enumerate(node.inputs)]
        op = OPS[node.op]
        if node.dtype in NARROW_INTEGERS:
            template = f"({op.triton_text}).to({NARROW_INTEGERS[node.dtype]}).to(tl.int64)"
            self.add(node, "pointwise", args, template=template)
        else:
            self.add(node, "pointwise", args, template=op.triton_text, linear_in=op.linear_in)

    def _operand(self, node: Node, k: int, i: int) -> str:
        """Return an operand, converted to the kind of element that the operation computes with."""
        name, kind = self.named[i], element_kind(self.ir[i])
        if self.ir[i].op == "const":
            return name
        if OPS[node.op].truth_operands and kind != "bool":
            return self._converted(name, "bool")
        is_condition = node.op == "where" and k == 0
        if element_kind(node) == "float" and kind != "float" and not is_condition:
            return self._converted(name, "float")
        return name

    def _converted(self, name: str, kind: str) -> str:
        shape = self.ops[name].shape
        return self.make(name, "pointwise", [name], shape, template=CONVERSIONS[kind], dtype=kind)

    def _cast(self, node: Node) -> None:
        source, kind = self.ir[node.inputs[0]], element_kind(node)
        if source.op == "const":
            number = {"float": float, "int": int, "bool": bool}[kind]
            self.add(node, "const", (), value=number(source.attrs["value"]))
            return
        template = CONVERSIONS[kind]
        through = NARROW_INTEGERS.get(node.dtype) or ROUNDED_FLOATS.get(node.dtype)
        if through and (kind == "int" or source.dtype.is_floating_point):
            template = template.replace("{0}", f"{{0}}.to({through})")
        self.add(node, "pointwise", [self.named[source.id]], template=template)

    # positions, and operations over the block axis

    def _index(self, node: Node) -> None:
        if node.attrs["axis"] not in (self.axis, self.block_axis):
            raise Unsupported(f"{located(node)} is the position along another axis")
        self.add(node, "position" if node.attrs["axis"] == self.block_axis else "index", ())

    def _over_block_axis(self, node: Node) -> None:
        is_float = element_kind(self.ir[node.inputs[0]]) == "float"
        if node.attrs["axis"] != self.block_axis or not is_float:
            self._refuse(node)
        more = {k: node.attrs[k] for k in ("shift", "position", "k") if k in node.attrs}
        args = [self.named[i] for i in node.inputs]
        self.add(node, "over_positions", args, law=OPS[node.op].prelude, **more)

    # matrix products

    def _matmul(self, node: Node) -> None:
        self._check_weights(node)
        args = [self.named[i] for i in node.inputs]
        if not self._sums_over_block_axis(node):
            self.add(node, "einsum", args, sub=node.attrs["sub"])
            return
        label = node.name or "einsum"
        made = self.make(label, "einsum", args, node.shape, sub=node.attrs["sub"])
        self.add(node, "over_positions", [made], law="axis_sum")

    def _affine(self, node: Node) -> None:
        self._check_weights(node)
        c, a, b = (self.named[i] for i in node.inputs)
        label = node.name or "einsum"
        made = self.make(label, "einsum", [a, b], node.shape, sub=node.attrs["sub"])
        if self._sums_over_block_axis(node):
            made = self.make(label, "over_positions", [made], node.shape, law="axis_sum")
        add = OPS["add"]
        self.add(node, "pointwise", [made, c], template=add.triton_text, linear_in=add.linear_in)

    def _check_weights(self, node: Node) -> None:
        """Raise Unsupported for a weight of another dtype than the launch multiplies."""
        for x in (self.ir[i] for i in node.inputs[-2:]):
            if not x.axes and len(x.shape) > 1 and x.dtype != self.ir.floating:
                raise Unsupported(
                    f"{located(node)} multiplies by a weight of {x.dtype} in a graph of "
                    f"{self.ir.floating}"
                )

    def _sums_over_block_axis(self, node: Node) -> bool:
        over = node.attrs["contract"] - set(self.dropped)
        if over - {self.block_axis}:
            raise Unsupported(f"{located(node)} sums over {', '.join(sorted(over))} within a step")
        return bool(over)

    # reductions over a value's own dimensions

    def _sum(self, node: Node) -> None:
        self.add(node, "sum", [self.named[node.inputs[0]]], dims=tuple(node.attrs["dims"]))

    def _max(self, node: Node) -> None:
        self.add(node, "max", [self.named[node.inputs[0]]], dims=tuple(node.attrs["dims"]))

    def _kept_dims(self, role: str, x: str, kind: str, dims: tuple[int, ...], note: str) -> str:
        """Return a reduction of `x` whose reduced dimensions are kept, with size one."""
        shape = self.ops[x].shape
        rest = tuple(n for d, n in enumerate(shape) if d not in dims)
        flat = self.make(role, kind, [x], rest, dims=dims, note=note)
        ones = tuple(1 if d in dims else n for d, n in enumerate(shape))
        return self.make(flat, "view", [flat], ones, maps=[np.arange(math.prod(rest))], note=note)

    def _formula(self, role: str, template: str, *args: str, note: str) -> str:
        shape = np.broadcast_shapes(*(self.ops[a].shape for a in args))
        return self.make(role, "pointwise", args, tuple(shape), template=template, note=note)

    def _softmax(self, node: Node) -> None:
        x, name, note = self.named[node.inputs[0]], name_of(node), note_of(node)
        dims = (node.attrs["dim"] % len(node.shape),)
        top = self._kept_dims(f"{name}.max", x, "max", dims, note)
        exp = self._formula(f"{name}.exp", "tl.exp({0} - {1})", x, top, note=note)
        total = self._kept_dims(f"{name}.sum", exp, "sum", dims, note)
        self.add(node, "pointwise", [exp, total], template="({0} / {1})")

    def _logsumexp(self, node: Node) -> None:
        x, name, note = self.named[node.inputs[0]], name_of(node), note_of(node)
        dims = tuple(node.attrs["dims"])
        finite = "tl.where(tl.abs({0}) < float('inf'), {0}, 0.0)"
        top = self._kept_dims(f"{name}.max", x, "max", dims, note)
        top = self._formula(f"{name}.finite_max", finite, top, note=note)
        exp = self._formula(f"{name}.exp", "tl.exp({0} - {1})", x, top, note=note)
        total = self._kept_dims(f"{name}.sum", exp, "sum", dims, note)
        made = self._formula(f"{name}.log", "({0} + tl.log({1}))", top, total, note=note)
        self.add(node, "view", [made], maps=[np.arange(math.prod(node.shape))])

    def _cat(self, node: Node) -> None:
        parts = [self.ir[i] for i in node.inputs]
        own = [np.arange(math.prod(p.shape)).reshape(p.shape) for p in parts]
        dim = node.attrs["dim"]
        positions = np.concatenate(own, dim).reshape(-1)
        owner = np.concatenate([np.full_like(x, k) for k, x in enumerate(own)], dim).reshape(-1)
        maps = [np.where(owner == k, positions, -1) for k in range(len(parts))]
        self.add(node, "view", [self.named[p.id] for p in parts], maps=maps)


# operations that are more than their row's text
_METHODS: dict[str, Callable[[_StepTranslator, Node], None]] = {
    "const": _StepTranslator.outside,
    "size": _StepTranslator.outside,
    "index": _StepTranslator._index,
    "cast": _StepTranslator._cast,
    "einsum": _StepTranslator._matmul,
    "affine": _StepTranslator._affine,
    "sum": _StepTranslator._sum,
    "amax": _StepTranslator._max,
    "softmax": _StepTranslator._softmax,
    "logsumexp": _StepTranslator._logsumexp,
    "cat": _StepTranslator._cat,
}
