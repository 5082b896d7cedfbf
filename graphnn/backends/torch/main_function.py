"""The main function of a program: whole-axis operations as torch calls, each loop as one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphnn.backends.random import random_nodes
from graphnn.backends.torch.codegen.code import (
    Definition,
    Expression,
    Line,
    Statement,
    assign,
    code,
    joined,
    unpack,
    variable,
)
from graphnn.backends.torch.codegen.function import valid_positions
from graphnn.backends.torch.codegen.header import described
from graphnn.backends.torch.codegen.operations import express
from graphnn.backends.torch.codegen.scope import (
    DEVICE,
    DTYPE,
    Scope,
    dtype_text,
    expand,
    filled,
    literal,
    origin,
    permute,
    shape_text,
)
from graphnn.backends.torch.operators.attention import AttentionOperator
from graphnn.backends.torch.operators.hops import HopsOperator
from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.kernels.ir.symbols import quoted
from graphnn.kernels.select.strategies import strategy_name
from graphnn.planner.boundary.states import FINAL, RECORD
from graphnn.planner.core.loop_graph import LoopIR
from graphnn.planner.core.regions import Whole
from graphnn.planner.loops.side_by_side import Part


@dataclass(frozen=True)
class Piece:
    """A part of a main function: the nodes of whole axes, or a loop.

    `end` is the number of statements up to its end.
    """

    nodes: list[int]
    cut: LoopIR | None
    program: LoopOperator | None
    end: int


def partitions(ir: IR) -> dict[int, list[Node]]:
    """For each slice, the slices in order that together make up a whole value, if there are."""
    groups: dict[tuple[int, int], list[Node]] = {}
    for node in ir:
        if node.op == "slice" and node.attrs["step"] == 1:
            groups.setdefault((node.inputs[0], node.attrs["dim"]), []).append(node)
    found = {}
    for (base, dim), nodes in groups.items():
        nodes = sorted(nodes, key=lambda n: n.attrs["start"])
        ends = [0, *(n.attrs["stop"] for n in nodes)]
        adjacent = ends[:-1] == [n.attrs["start"] for n in nodes]
        if adjacent and len(nodes) > 1 and ends[-1] == ir[base].shape[dim]:
            found.update({n.id: nodes for n in nodes})
    return found


def _strategies(called: str, loop: LoopOperator) -> str:
    """How a loop is run, such as `loop_0: h over time, persistent forward, stepwise backward`."""
    choices = [strategy_name(choice.strategy) for choice in loop.choices()] or ["torch"]
    directions = zip(choices, ("forward", "backward"))
    how = ", ".join(f"{choice} {direction}" for choice, direction in directions)
    return f"{called}: {loop.loop.name} over {loop.loop.loop.axis}, {how}"


class MainWriter:
    """Writes `main(parameters, inputs, lengths, sizes, device)`.

    `order` is the axes of outputs, `calls` are the loops of `parts`, in order, `along` is the node
    of the lengths by which examples are sorted.
    """

    def __init__(
        self,
        ir: IR,
        order: list[str],
        parts: list[Part],
        calls: list[tuple[LoopIR, LoopOperator]],
        attends: dict[int, AttentionOperator | HopsOperator],
        layers: dict[int, Any],
        along: int | None,
    ):
        self.ir, self.order, self.parts, self.calls = ir, order, parts, calls
        self.attends, self.layers, self.along = attends, layers, along
        self.absorbed = frozenset().union(*(cut.absorbed for cut, _ in calls))
        self.loops = list(dict.fromkeys(program for _, program in calls))
        self.s = Scope(ir)
        groups = (("loop", self.loops), ("attend", attends.values()), ("layer", layers.values()))
        self.called: dict[Any, Expression] = {
            program: self.s.object(program, f"{word}_{k}")
            for word, group in groups
            for k, program in enumerate(group)
        }
        self.lines: list[Line] = []
        self.pieces: list[Piece] = []
        self.splits = partitions(ir)
        self.parameters = [n for n in ir if n.op in ("parameter", "tensor")]

    def write(self) -> Definition:
        """The function; afterwards `pieces` are its parts."""
        self._sources()
        calls = iter(self.calls)
        self._piece([])
        for part in self.parts:
            if isinstance(part, Whole):
                self._whole(part)
                self._piece(part.nodes)
            else:
                cut, program = next(calls)
                self.lines.append(self._call(cut, program))
                self._piece(cut.loop.nodes, cut, program)
        title = f"{self.ir.name}: operations over whole axes, and calls of loops."
        arguments = "parameters, inputs, lengths, sizes, device"
        return Definition("main", arguments, title, self.lines, self._outs(), self._header())

    def _header(self) -> list[list[str]]:
        """The comments before the function: what it reads and returns, and how loops are run."""
        ir = self.ir
        inputs = [n for n in ir if n.op == "input"]
        return [
            [f"{ir.name}: {len(ir)} operations"],
            described("parameters", ir, [(n, "") for n in self.parameters]),
            described("inputs", ir, [(n, n.attrs["key"]) for n in inputs]),
            described("outputs", ir, [(ir[i], name) for name, i in ir.outputs.items()]),
            *([_strategies(self.called[loop].text, loop)] for loop in self.loops),
        ]

    def _piece(
        self, nodes: list[int], cut: LoopIR | None = None, program: LoopOperator | None = None
    ) -> None:
        self.pieces.append(Piece(nodes, cut, program, len(self.lines)))

    def _sources(self) -> None:
        """The statements that unpack the arguments and draw random numbers."""
        s, add = self.s, self.lines.append
        add(assign(DTYPE, Expression(str(self.ir.floating))))
        for axis in self.ir.axes:
            add(assign(s.size(axis), code("sizes[{}]", quoted(axis))))
        if self.parameters:
            add(unpack([s.declare(n) for n in self.parameters], variable("parameters")))
        if self.along is not None:
            self._sort(self.ir[self.along].attrs["axis"])
        for node in random_nodes(self.ir):
            drawn = self._draw(node)
            add(assign(s.declare(node), drawn))
        for node in self.ir:
            if node.op == "input":
                given = self._input(node)
                add(assign(s.declare(node), given))
            elif node.op == "length":
                self._length(node)

    def _sort(self, axis: str) -> None:
        """The order of the examples, the longest first, and the way back."""
        self.positions, self.back = self.s.fresh("order"), self.s.fresh("back")
        order = code("runtime.longest_first(lengths[{}])", quoted(axis))
        self.lines.append(assign(self.positions, order, "the longest example first"))
        self.lines.append(assign(self.back, code("{}.argsort()", self.positions)))

    def _length(self, node: Node) -> None:
        axis = self.ir.axes[node.attrs["axis"]].copy_of or node.attrs["axis"]
        name = self.s.names[node.id] = self.s.fresh(f"length_{axis}")
        given = code("lengths[{}]", quoted(axis))
        self.lines.append(assign(name, self._sorted(given, 0)))
        if node.id == self.along:
            self.lines.append(valid_positions(self.s, node, (axis, BATCH), True))

    def _draw(self, node: Node) -> Expression:
        """Random numbers, drawn in the user's order of axes and then put into memory order.

        The order is the same for every backend. Loops that draw noise themselves get a seed.
        """
        if "places" in node.attrs:
            return code("new_seed({})", DEVICE)
        canonical = [a for a in self.order if a in node.axes]
        sizes = shape_text([*self.s.sizes(canonical), *node.shape])
        law = f"{node.attrs['kind']!r}, {literal(node.attrs['p'])}"
        drawn = code("draw({}, {}, {}, {})", law, sizes, DTYPE, DEVICE)
        if BATCH in canonical:
            drawn = self._sorted(drawn, canonical.index(BATCH))
        return self.s.permuted(drawn, canonical, node)

    def _sorted(self, x: Expression, dim: int) -> Expression:
        """A value whose examples are along `dim`, sorted by length."""
        return x if self.along is None else code("{}.index_select({}, {})", x, dim, self.positions)

    def _input(self, node: Node) -> Expression:
        batched = [BATCH] if node.attrs.get("batched", True) else []
        x = code("inputs[{}]", quoted(node.attrs["key"]))
        x = self._sorted(x, 0) if batched else x
        return self.s.permuted(x, [*batched, *node.attrs["over"]], node)

    def _outs(self) -> list[Expression]:
        """The results. Callers may change states in place, so that these share no memory."""
        outs, seen = [], set()
        for name, i in self.ir.outputs.items():
            value, state = self._returned(self.ir[i]), name.startswith((FINAL, RECORD))
            alone = self.ir[i].op == "final" and i not in seen
            outs.append(code("runtime.copy({})", value) if state and not alone else value)
            seen.add(i)
        return outs

    def _returned(self, node: Node) -> Expression:
        """An output, its examples in the order of the inputs."""
        value = self._output(node)
        equal = BATCH not in node.axes  # all examples have the same value
        if self.along is None or equal:
            return value
        return code("{}.index_select(0, {})", value, self.back)

    def _whole(self, region: Whole) -> None:
        """Operations over whole axes."""
        for i in region.nodes:
            node = self.ir[i]
            if i in self.absorbed or i in self.s.names or node.op in ("const", "size"):
                continue
            if i in self.splits:
                self.lines.append(self._split(self.splits[i], origin(node)))
                continue
            writer = {"attend": self._attend, "aten": self._layer}.get(node.op)
            value = writer(node) if writer else express(self.s, node)
            self.lines.append(assign(self.s.declare(node), value, origin(node)))

    def _attend(self, node: Node) -> Expression:
        program = self.attends[node.id]
        function = "hops" if isinstance(program, HopsOperator) else "attend"
        return self._operator(function, program, node.inputs, program.axes)

    def _operator(
        self, function: str, program: Any, reads: Sequence[int], axes: Sequence[str]
    ) -> Expression:
        """The call of an operator on the values it reads and the lengths of axes."""
        tensors, sizes = joined(self.s.var(i) for i in reads), joined(self.s.sizes(axes))
        if not reads:
            tensors = code("torch.empty((0,), dtype={}, device={})", DTYPE, DEVICE)
        return code("{}({}, [{}], [{}])", function, self.called[program], tensors, sizes)

    def _layer(self, node: Node) -> Expression:
        if node.id not in self.layers:
            return express(self.s, node)
        operands = joined(self.s.var(i) for i in node.inputs)
        sizes = joined(self.s.sizes((node.attrs["axis"], BATCH)))
        return code("{}([{}], [{}])", self.called[self.layers[node.id]], operands, sizes)

    def _split(self, parts: list[Node], note: str) -> Statement:
        """All parts of a value at once: then their gradients are joined, not each padded."""
        base, dim = self.s.var(parts[0].inputs[0]), parts[0].attrs["dim"] - len(parts[0].shape)
        sizes = joined(n.shape[dim] for n in parts)
        names = tuple(self.s.declare(n).text for n in parts)
        return Statement(
            code("{}.split(({}), {})", base, sizes, dim), names, note=note, unpacks=True
        )

    def _call(self, cut: LoopIR, program: LoopOperator) -> Statement:
        names = [self.s.declare(self.ir[i]) for i in cut.results]
        return unpack(names, self._operator("call", program, cut.reads, program.train.axes))

    def _output(self, node: Node) -> Expression:
        """An output as (batch, *axes in the user's order, *shape), always with the batch."""
        present = {*node.axes, BATCH}
        wanted = [a for a in self.order if a in present]
        if node.op in ("const", "size"):
            sizes, value = self.s.sizes(wanted), self.s.var(node.id)
            if node.op == "size":
                return expand(value, sizes)
            return filled(shape_text(sizes), value, dtype_text(self.ir, node.dtype))
        axes = tuple(a for a in self.ir.layout(present))
        x = self.s.aligned(node.id, axes, len(node.shape))
        if BATCH not in node.axes:
            x = expand(x, [*self.s.sizes(axes), *node.shape])
        if tuple(wanted) == axes:
            return x
        return permute(
            x, [axes.index(a) for a in wanted] + [len(axes) + d for d in range(len(node.shape))]
        )
