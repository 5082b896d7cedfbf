"""The program of a planned graph: its main function and the operators that this calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from graphnn.backends.random import draw, new_seed
from graphnn.backends.torch.codegen.code import Definition, Expression, Line, do
from graphnn.backends.torch.codegen.loading import called, load
from graphnn.backends.torch.codegen.lowering import Lowering
from graphnn.backends.torch.codegen.ragged_loop import narrows
from graphnn.backends.torch.codegen.scope import RESERVED
from graphnn.backends.torch.main_function import MainWriter, Piece
from graphnn.backends.torch.operators import hops, loop_call, statistics
from graphnn.backends.torch.operators.attention import AttentionOperator
from graphnn.backends.torch.operators.hops import HopsOperator
from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.operators.statistics import StatisticsOperator
from graphnn.ir.debug import show
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.symbols import NameTable
from graphnn.planner.attention.hops import Hops, as_graph
from graphnn.planner.attention.hops import in_memory_order as hops_in_memory_order
from graphnn.planner.attention.statistics import StatisticsRegion
from graphnn.planner.autodiff.softmax import in_memory_order
from graphnn.planner.contexts import LoopContext, ProgramContext
from graphnn.planner.core.loop_graph import LoopIR, ends_of, signature_of
from graphnn.planner.core.regions import Loop
from graphnn.planner.loops.choose import loop_name
from graphnn.planner.loops.torch_layer_graph import definition
from graphnn.planner.pipeline import Stage, finished, run

Tensor = torch.Tensor
# the functions that `main` calls
CALLED: dict[str, Any] = {
    "call": loop_call.call,
    "attend": statistics.call,
    "hops": hops.call,
    "draw": draw,
    "new_seed": new_seed,
}


@dataclass(eq=False)
class Program:
    """A model's generated code: `main(parameters, inputs, lengths, sizes, device)`.

    `pieces` are its parts, in order, after the statements that unpack the arguments. `loops` has
    each operator once, however many loops it runs; `program_of` has them by the states of loops.
    `layers` are those of torch's own layers that a lowering has kernels for as well. `place` is the
    number by which torch.compile finds the program.
    """

    definition: Definition
    main: Callable[..., list[Tensor]]
    parameters: list[Node]
    loops: list[LoopOperator]
    outputs: list[str]
    program_of: dict[int, LoopOperator]
    ir: IR
    pieces: list[Piece]
    attends: list[AttentionOperator | HopsOperator]
    layers: list[Any]
    place: int = -1

    @property
    def source(self) -> str:
        """The source of `main`."""
        return self.definition.source()

    def marked(self, mark: str) -> str:
        """The source of `main` with a call of `mark` before each of its pieces and at its end."""
        body: list[Line] = []
        starts = [0, *(piece.end for piece in self.pieces)]
        call = do(Expression(f"{mark}()"))
        for start, end in pairwise(starts):
            body += [call, *self.definition.body[start:end]]
        return replace(self.definition, body=[*body, call]).source()

    def sources(self) -> str:
        """All generated code: the main function, then each loop forward and backward."""
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
    """The program of a planned graph. `order` is the user's order of axes, that of outputs.

    `lowering` turns loops into kernels; without it they become torch code. If `sorts`, torch code
    sorts the examples of ragged batches by length (not on a GPU: counting rows would wait for it).
    """
    context = ProgramContext(
        passes=passes,
        order=order,
        recompute=bool(recompute),
        kernels=lowering is not None,
        together=lowering.together if lowering is not None else None,
    )
    ir = run(Stage.PROGRAM, ir, context)
    loops = context.loops()
    along = sorted_along(ir, loops) if lowering is None and sorts else None
    calls = _calls(ir, loops, along, passes, recompute, lowering)
    attends = {n.id: _attend(ir, n, passes, lowering) for n in ir if n.op == "attend"}
    layers: dict[int, Any] = {}
    if lowering is not None and "tune" in passes:
        layers = {n.id: _layer(ir, n, passes, recompute, lowering) for n in ir if n.op == "aten"}
    program = _loaded(MainWriter(ir, order, context.parts, calls, attends, layers, along), lowering)
    show("plan", f"kernels of {ir.name}", lambda: _choices(program))
    return program


def _loaded(writer: MainWriter, lowering: Lowering | None) -> Program:
    """The program whose main function a writer writes."""
    definition = writer.write()
    objects = {**writer.s.objects, **called(lowering), **CALLED}
    layered = (loop for layer in writer.layers.values() for loop in layer.own.loops)
    return Program(
        definition,
        load(definition.source(), "main", objects),
        writer.parameters,
        [*writer.loops, *layered],
        list(writer.ir.outputs),
        {i: program for cut, program in writer.calls for i in cut.loop.states},
        writer.ir,
        writer.pieces,
        list(writer.attends.values()),
        list(writer.layers.values()),
    )


def _calls(
    ir: IR,
    loops: list[Loop],
    along: int | None,
    passes: frozenset[str],
    recompute: bool | None,
    lowering: Lowering | None,
) -> list[tuple[LoopIR, LoopOperator]]:
    """Each loop as a graph, with its operator; equal loops share one.

    Examples come sorted by the lengths `along`, if any.
    """
    users, results = ir.users(), set(ir.outputs.values())
    loop_of = {i: n for n, loop in enumerate(loops) for i in loop.nodes}
    names = lowering.names if lowering is not None else NameTable(RESERVED)
    calls: list[tuple[LoopIR, LoopOperator]] = []
    known: dict[Any, LoopOperator] = {}
    for n, loop in enumerate(loops):
        read = (i for i in loop.nodes if any(loop_of.get(u) != n for u in users[i]))
        outside = {*read, *(results & set(loop.nodes))}
        ends = ends_of(ir, loop)
        ordered = ends is not None and ends == along and narrows(ir, loop)
        cut = _cut(ir, loop, outside, results, ordered, passes)
        signature = signature_of(cut)
        if signature not in known:
            known[signature] = LoopOperator(cut, passes, recompute, lowering, ordered, names)
        calls.append((cut, known[signature]))
    return calls


def _choices(program: Program) -> str:
    """The strategies of loops with kernels, forward and backward, with their reasons."""
    found = [(loop.name, c) for loop in program.loops for c in loop.choices()]
    return "\n".join(f"loop {name}: {c.strategy}: {c.reason}" for name, c in found)


def _layer(
    ir: IR, node: Node, passes: frozenset[str], recompute: bool | None, lowering: Lowering
) -> Any:
    """A callable for one of torch's layers that may also run the program of its definition."""
    picks = (n for n in ir if n.op == "pick" and n.inputs == (node.id,))
    wanted = sorted({n.attrs["which"] for n in picks})
    own = finished(definition(ir, node, wanted), passes)
    return lowering.layer(node, build(own, list(own.axes), passes, recompute, lowering), wanted)


def _cut(
    ir: IR, loop: Loop, outside: set[int], results: set[int], ordered: bool, passes: frozenset[str]
) -> LoopIR:
    """A loop as a separate graph, after the passes of one loop."""
    context = LoopContext(
        passes=passes,
        title=f"loop {loop_name(ir, loop)}",
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
    """The lengths by which a call sorts its examples: those of the first loop that is faster so."""
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
        part = hops_in_memory_order(part, ir.axes)
        engine = lowering.hops(part, passes) if lowering is not None else None
        why = lowering.unwritten.get(part.name, "") if lowering is not None else ""
        single = build(as_graph(part), list(part.ir.axes), passes, None, lowering)
        return HopsOperator(part, passes, single.main, engine, why)
    part = in_memory_order(part, ir.axes)
    engine = lowering.attend(part, passes) if lowering is not None else None
    why = lowering.unwritten.get(part.name, "") if lowering is not None else ""
    kind: Any = StatisticsOperator if isinstance(part, StatisticsRegion) else AttentionOperator
    return kind(part, passes, engine, why if engine is None else "")  # type: ignore[no-any-return]
