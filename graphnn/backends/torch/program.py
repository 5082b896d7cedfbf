"""Writing the whole model: operations over whole axes as torch calls, each loop as one operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from graphnn.backends.random import draw, new_seed, random_nodes
from graphnn.backends.torch.codegen.function import Lowering, called, load
from graphnn.backends.torch.codegen.loop import INDENT
from graphnn.backends.torch.codegen.operations import express
from graphnn.backends.torch.codegen.ragged_loop import narrows
from graphnn.backends.torch.codegen.scope import RESERVED, Scope, literal, origin
from graphnn.backends.torch.operators import hops, statistics
from graphnn.backends.torch.operators import loop as custom
from graphnn.backends.torch.operators.attention import AttentionOperator
from graphnn.backends.torch.operators.hops import HopsOperator
from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.operators.statistics import StatisticsOperator
from graphnn.ir.debug import show
from graphnn.ir.graph import BATCH, IR, Node
from graphnn.kernels.ir.symbols import NameTable, quoted, remark
from graphnn.planner.attention.hops import Hops, apart
from graphnn.planner.attention.hops import arranged as placed
from graphnn.planner.attention.statistics import Tally
from graphnn.planner.autodiff.softmax import arranged
from graphnn.planner.boundary.states import FINAL, RECORD
from graphnn.planner.contexts import LoopContext, ProgramContext
from graphnn.planner.core.loop_graph import LoopIR, ends_of, form_of
from graphnn.planner.core.regions import Loop, Whole
from graphnn.planner.loops.choose import name_of
from graphnn.planner.loops.side_by_side import Part
from graphnn.planner.loops.torch_layer_graph import definition
from graphnn.planner.pipeline import Stage, finished, run

Tensor = torch.Tensor


@dataclass(frozen=True)
class Piece:
    """A part of a program: the nodes of whole axes, or a loop; `end` is where its lines end."""

    nodes: list[int]
    cut: LoopIR | None
    program: LoopOperator | None
    end: int


@dataclass(eq=False)
class Program:
    """A model's generated code: `main(parameters, inputs, lengths, sizes, device)`."""

    source: str
    main: Callable[..., list[Tensor]]
    parameters: list[Node]
    loops: list[LoopOperator]  # each once, however many loops it runs
    outputs: list[str]
    program_of: dict[int, LoopOperator]  # by the states of loops
    ir: IR
    pieces: list[Piece]  # in order, after the lines that take the arguments apart
    attends: list[AttentionOperator | HopsOperator]
    layers: list[Any]  # torch's own, which a lowering has kernels for as well
    place: int = -1  # the number that torch.compile finds it by

    def sources(self) -> str:
        """All generated code, readable: the model, then each loop forward and backward."""
        parts = [self.source, *(layer.own.source for layer in self.layers)]
        for loop in self.loops:
            parts.append(loop.train.source)
            parts.append(
                loop.backward(
                    (True,) * len(loop.loop.reads), (True,) * len(loop.loop.results)
                ).source
            )
        lowerings = dict.fromkeys(loop.lowering for loop in self.loops if loop.lowering)
        parts += [text for lowering in lowerings for text in lowering.sources()]
        parts += [text for attend in self.attends for text in attend.sources()]
        return "\n\n".join(parts)


def build(
    ir: IR,
    order: list[str],
    passes: frozenset[str],
    recompute: bool | None,
    lowering: Lowering | None = None,
    sorts: bool = True,
) -> Program:
    """Code for a planned graph. `order` is the axes as the user met them: the layout of outputs.

    `lowering` makes kernels of the loops; without it they are torch code, for ragged batches of
    examples that it `sorts` by length (not on a GPU: counting rows would wait for it).
    """
    together = lowering.together if lowering is not None else None
    context = ProgramContext(
        passes=passes,
        order=order,
        recompute=bool(recompute),
        kernels=lowering is not None,
        together=together,
    )
    ir = run(Stage.PROGRAM, ir, context)
    users = ir.users()
    kept = set(ir.outputs.values())
    loops = context.loops()
    inside = {i: n for n, loop in enumerate(loops) for i in loop.nodes}
    along = sorted_along(ir, loops) if lowering is None and sorts else None
    names = lowering.names if lowering is not None else NameTable(RESERVED)
    calls: list[tuple[LoopIR, LoopOperator]] = []
    known: dict[Any, LoopOperator] = {}
    for n, loop in enumerate(loops):
        outside = {i for i in loop.nodes if i in kept or any(inside.get(u) != n for u in users[i])}
        ends = ends_of(ir, loop)
        ordered = ends is not None and ends == along and narrows(ir, loop)
        cut = _cut(ir, loop, outside, kept, ordered, passes)
        form = form_of(cut)
        if form not in known:
            known[form] = LoopOperator(cut, passes, recompute, lowering, ordered, names)
        calls.append((cut, known[form]))
    attends = {n.id: _attend(ir, n, passes, lowering) for n in ir if n.op == "attend"}
    layers: dict[int, Any] = {}
    if lowering is not None and "tune" in passes:
        layers = {n.id: _layer(ir, n, passes, recompute, lowering) for n in ir if n.op == "aten"}
    objects = called(lowering)
    program = _Writer(ir, order, context.parts, calls, attends, layers, objects, along).write()
    show("plan", f"kernels of {ir.name}", lambda: _choices(program))
    return program


def _choices(program: Program) -> str:
    """How each loop is run by kernels, forward and backward, and why; nothing without kernels."""
    found = [(loop.name, c) for loop in program.loops for c in loop.choices()]
    return "\n".join(f"loop {name}: {c.regime}: {c.reason}" for name, c in found)


def _layer(
    ir: IR, node: Node, passes: frozenset[str], recompute: bool | None, lowering: Lowering
) -> Any:
    """One of torch's layers, beside the program of its definition."""
    picks = (n for n in ir if n.op == "pick" and n.inputs == (node.id,))
    wanted = sorted({n.attrs["which"] for n in picks})
    own = finished(definition(ir, node, wanted), passes)
    return lowering.layer(node, build(own, list(own.axes), passes, recompute, lowering), wanted)


def _cut(
    ir: IR, loop: Loop, outside: set[int], results: set[int], ordered: bool, passes: frozenset[str]
) -> LoopIR:
    """A loop as a graph of its own, after the passes of one loop."""
    context = LoopContext(
        passes=passes,
        title=f"loop {name_of(ir, loop)}",
        whole=ir,
        loop=loop,
        outside=outside,
        results=results,
        sorted_rows=ordered,
    )
    run(Stage.LOOP, ir, context)
    assert context.cut is not None
    return context.cut


def sorted_along(ir: IR, loops: list[Loop]) -> int | None:
    """The lengths by which a call sorts its examples: those of the first loop that gains by it."""
    for loop in loops:
        ends = ends_of(ir, loop)
        if ends is not None and narrows(ir, loop):
            return ends
    return None


def _attend(
    ir: IR, node: Node, passes: frozenset[str], lowering: Lowering | None
) -> AttentionOperator | HopsOperator:
    part = node.attrs["part"]
    if isinstance(part, Hops):
        part = placed(part, ir.axes)
        engine = lowering.hops(part, passes) if lowering is not None else None
        why = lowering.unwritten.get(part.name, "") if lowering is not None else ""
        single = build(apart(part), list(part.ir.axes), passes, None, lowering)
        return HopsOperator(part, passes, single.main, engine, why)
    part = arranged(part, ir.axes)
    engine = lowering.attend(part, passes) if lowering is not None else None
    why = lowering.unwritten.get(part.name, "") if lowering is not None else ""
    kind: Any = StatisticsOperator if isinstance(part, Tally) else AttentionOperator
    return kind(part, passes, engine, why if engine is None else "")  # type: ignore[no-any-return]


def partitions(ir: IR) -> dict[int, list[Node]]:
    """Slices that together make up the whole of what they are slices of, in order."""
    groups: dict[tuple[int, int], list[Node]] = {}
    for node in ir:
        if node.op == "slice" and node.attrs["step"] == 1:
            groups.setdefault((node.inputs[0], node.attrs["dim"]), []).append(node)
    found = {}
    for (base, dim), nodes in groups.items():
        nodes = sorted(nodes, key=lambda n: n.attrs["start"])
        ends = [0, *(n.attrs["stop"] for n in nodes)]
        joined = ends[:-1] == [n.attrs["start"] for n in nodes]
        if joined and len(nodes) > 1 and ends[-1] == ir[base].shape[dim]:
            found.update({n.id: nodes for n in nodes})
    return found


class _Writer:
    def __init__(
        self,
        ir: IR,
        order: list[str],
        parts: list[Part],
        calls: list[tuple[LoopIR, LoopOperator]],
        attends: dict[int, AttentionOperator | HopsOperator],
        layers: dict[int, Any],
        objects: dict[str, Any],
        along: int | None,
    ):
        self.attends, self.layers, self.along = attends, layers, along
        self.parts, self.objects = parts, objects
        self.ir, self.order, self.calls = ir, order, calls
        self.within = frozenset().union(*(cut.absorbed for cut, _ in calls))
        self.programs = list(dict.fromkeys(program for _, program in calls))
        self.s = Scope(ir)
        groups = (("loop", self.programs), ("attend", attends.values()), ("layer", layers.values()))
        self.called: dict[Any, str] = {
            program: self.s.object(program, f"{word}_{k}")
            for word, group in groups
            for k, program in enumerate(group)
        }
        self.lines: list[str] = []
        self.cuts = partitions(ir)
        self.parameters = [n for n in ir if n.op in ("parameter", "tensor")]

    def write(self) -> Program:
        s = self.s
        self._sources()
        calls, pieces = iter(self.calls), [Piece([], None, None, len(self.lines))]
        for part in self.parts:
            if isinstance(part, Whole):
                self._whole(part)
                pieces.append(Piece(part.nodes, None, None, len(self.lines)))
            else:
                cut, program = next(calls)
                self._call(cut, program)
                pieces.append(Piece(cut.loop.nodes, cut, program, len(self.lines)))
        outs = self._outs()
        head = ["def main(parameters, inputs, lengths, sizes, device):"]
        title = f"{remark(self.ir.name)}: everything over whole axes; loops are called."
        head.append(f'{INDENT}"""{title}"""')
        body = [*self.lines, f"return [{', '.join(outs)}]"]
        source = "\n".join([*head, *[INDENT + line for line in body]]) + "\n"
        objects = {
            **s.objects,
            **self.objects,
            "call": custom.call,
            "attend": statistics.call,
            "hops": hops.call,
            "draw": draw,
            "new_seed": new_seed,
        }
        main = load(source, "main", objects)
        of = {i: program for cut, program in self.calls for i in cut.loop.states}
        outputs, attends = list(self.ir.outputs), list(self.attends.values())
        layers = list(self.layers.values())
        loops = [*self.programs, *(loop for layer in layers for loop in layer.own.loops)]
        made = (source, main, self.parameters, loops, outputs, of)
        return Program(*made, self.ir, pieces, attends, layers)

    def _sources(self) -> None:
        s, add = self.s, self.lines.append
        add(f"dtype = {self.ir.floating}")
        for axis in self.ir.axes:
            add(f"{s.size(axis)} = sizes[{quoted(axis)}]")
        if self.parameters:
            names = [s.declare(n) for n in self.parameters]
            add(f"{', '.join(names)}{',' * (len(names) == 1)} = parameters")
        if self.along is not None:
            axis = self.ir[self.along].attrs["axis"]
            self.places, self.back = s.fresh("order"), s.fresh("back")
            lengths = f"lengths[{quoted(axis)}]"
            add(f"{self.places} = runtime.order({lengths})  # the longest example first")
            add(f"{self.back} = {self.places}.argsort()")
        for node in random_nodes(self.ir):
            add(f"{s.declare(node)} = {self._draw(node)}")
        for node in self.ir:
            if node.op == "input":
                add(f"{s.declare(node)} = {self._input(node)}")
            elif node.op == "length":
                axis = self.ir.axes[node.attrs["axis"]].copy_of or node.attrs["axis"]
                name = s.fresh(f"length_{axis}")
                s.names[node.id] = name
                add(f"{name} = lengths[{quoted(axis)}]{self._sorted(0)}")
                if node.id == self.along:
                    s.there = s.fresh("there"), (axis, BATCH), True
                    add(f"{s.there[0]} = runtime.tokens({name})")

    def _draw(self, node: Node) -> str:
        """Drawn in the user's order of axes, as every backend does, then put into memory order.

        Of what loops draw by themselves, the seed.
        """
        if "places" in node.attrs:
            return "new_seed(device)"
        canonical = [a for a in self.order if a in node.axes]
        sizes = self.s.sizes(canonical) + [str(n) for n in node.shape]
        text = f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
        kind, p = node.attrs["kind"], literal(node.attrs["p"])
        drawn = f"draw({kind!r}, {p}, {text}, dtype, device)"
        if BATCH in canonical:
            drawn += self._sorted(canonical.index(BATCH))
        return drawn + self.s.permuted(canonical, node)

    def _sorted(self, dim: int) -> str:
        """What puts the examples of a value in their order."""
        return "" if self.along is None else f".index_select({dim}, {self.places})"

    def _outs(self) -> list[str]:
        """What is returned. States are changed in place by who has them: they share no memory."""
        outs, seen = [], set()
        for name, i in self.ir.outputs.items():
            text, state = self._returned(self.ir[i]), name.startswith((FINAL, RECORD))
            alone = self.ir[i].op == "final" and i not in seen
            outs.append(f"runtime.own({text})" if state and not alone else text)
            seen.add(i)
        return outs

    def _returned(self, node: Node) -> str:
        """An output, its examples as they were given."""
        text = self._output(node)
        alike = BATCH not in node.axes  # all examples have the same
        return text if self.along is None or alike else f"{text}.index_select(0, {self.back})"

    def _input(self, node: Node) -> str:
        batched = [BATCH] if node.attrs.get("batched", True) else []
        given = [*batched, *node.attrs["over"]]
        text = f"inputs[{quoted(node.attrs['key'])}]" + (self._sorted(0) if batched else "")
        return text + self.s.permuted(given, node)

    def _whole(self, region: Whole) -> None:
        for i in region.nodes:
            node = self.ir[i]
            if i in self.within or i in self.s.names or node.op in ("const", "size"):
                continue
            where = origin(node)
            if node.id in self.cuts:
                self.lines.append(self._split(self.cuts[node.id]) + where)
                continue
            own = {"attend": self._attend, "aten": self._layer}.get(node.op)
            text = own(node) if own else express(self.s, node)
            self.lines.append(f"{self.s.declare(node)} = {text}{where}")

    def _attend(self, node: Node) -> str:
        program = self.attends[node.id]
        tensors = ", ".join(self.s.var(i) for i in node.inputs)
        sizes = ", ".join(self.s.sizes(program.axes))
        word = "hops" if isinstance(program, HopsOperator) else "attend"
        return f"{word}({self.called[program]}, [{tensors}], [{sizes}])"

    def _layer(self, node: Node) -> str:
        if node.id not in self.layers:
            return express(self.s, node)
        operands = ", ".join(self.s.var(i) for i in node.inputs)
        sizes = ", ".join(self.s.sizes((node.attrs["axis"], BATCH)))
        return f"{self.called[self.layers[node.id]]}([{operands}], [{sizes}])"

    def _split(self, parts: list[Node]) -> str:
        """All parts of a value at once: their gradients are then joined, not each filled up."""
        base, dim = self.s.var(parts[0].inputs[0]), parts[0].attrs["dim"] - len(parts[0].shape)
        names = ", ".join(self.s.declare(n) for n in parts)
        sizes = ", ".join(str(n.shape[dim]) for n in parts)
        return f"{names} = {base}.split(({sizes}), {dim})"

    def _call(self, cut: LoopIR, program: LoopOperator) -> None:
        names = [self.s.declare(self.ir[i]) for i in cut.results]
        tensors = ", ".join(self.s.var(i) for i in cut.reads)
        tensors = tensors or "torch.empty((0,), dtype=dtype, device=device)"
        sizes = ", ".join(self.s.sizes(program.train.axes))
        targets = f"{', '.join(names)}{',' * (len(names) == 1)}"
        self.lines.append(f"{targets} = call({self.called[program]}, [{tensors}], [{sizes}])")

    def _output(self, node: Node) -> str:
        """(batch, *axes in the user's order, *shape), the batch always there."""
        present = {*node.axes, BATCH}
        wanted = [a for a in self.order if a in present]
        if node.op in ("const", "size"):
            sizes = ", ".join(self.s.sizes(wanted))
            value = self.s.var(node.id)
            kind = "dtype" if node.dtype == self.ir.floating else str(node.dtype)
            if node.op == "size":
                return f"{value}.expand({sizes})"
            return f"torch.full(({sizes},), {value}, dtype={kind}, device=device)"
        axes = tuple(a for a in self.ir.layout(present))
        text = self.s.aligned(node.id, axes, len(node.shape))
        if BATCH not in node.axes:
            wide = self.s.sizes(axes) + [str(n) for n in node.shape]
            text = f"{text}.expand({', '.join(wide)})"
        if tuple(wanted) == axes:
            return text
        dims = [axes.index(a) for a in wanted] + [len(axes) + d for d in range(len(node.shape))]
        return f"{text}.permute({', '.join(map(str, dims))})"
