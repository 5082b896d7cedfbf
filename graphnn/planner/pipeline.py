"""Every pass, in order, in one list: from the traced graph to the functions that run it.

Each stage of the list is run by one call of `run(stage, ir, context)`, by the code that has the
graph at that stage: the planner itself (a call), the torch backend (a program, its loops, their
derived backward, each generated function), and streaming (one step). The graph is verified after
every pass, and every pass can be seen: see `graphnn.planner.observe`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from graphnn.ir.debug import show
from graphnn.ir.graph import IR
from graphnn.ir.verify import verify
from graphnn.planner import steps
from graphnn.planner.attention.attend import Note
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.autodiff.hops import Backward
from graphnn.planner.autodiff.loops import Derived
from graphnn.planner.boundary.check import check_axes, check_states
from graphnn.planner.contexts import AttentionContext, CallContext, Context
from graphnn.planner.core.regions import Region, partition
from graphnn.planner.loops.choose import Decision, Target
from graphnn.planner.observe import observe


class Stage(Enum):
    """Where in the life of a graph a pass runs."""

    TRACED = "the traced graph"
    CHECKED = "the checked graph"
    REQUESTED = "the states that a call needs"
    CALL = "the boundaries of a call"
    GRAPH = "the whole graph"
    CHOSEN = "the whole graph with chosen loop strategies"
    PROGRAM = "a program with its loops in place"
    LOOP = "one extracted loop"
    DERIVED = "the derivative of one loop"
    BACKWARD = "the derived backward of one loop"
    ATTENTION = "the derived backward of one attention"
    FUNCTION = "one generated function"
    INVARIANTS = "the loop-invariant part"
    STEP = "one step of a stream"


def always(context: Any) -> bool:
    """The condition of a pass that has none."""
    return True


@dataclass(frozen=True)
class Pass:
    """One pass: `run(ir, context)` returns the graph after it.

    It runs if `skip` (the word for it in `gn.compile(skip=...)`, None if it cannot be skipped) is
    among the switches that are on, and if `when` holds of the context.
    """

    name: str
    stage: Stage
    run: Callable[[IR, Any], IR]
    skip: str | None = None
    when: Callable[[Any], bool] = always

    def applies(self, context: Context) -> bool:
        """Whether the pass runs in this context."""
        return (self.skip is None or self.skip in context.passes) and self.when(context)


PASSES: tuple[Pass, ...] = (
    Pass("retype", Stage.TRACED, steps.retype),
    #
    Pass("promote_dtypes", Stage.CHECKED, steps.promote_dtypes),
    Pass("inline_wires", Stage.CHECKED, steps.inline_wires),
    #
    Pass("probe_states", Stage.REQUESTED, steps.probe_states),
    Pass("record_states", Stage.REQUESTED, steps.record_states),
    #
    Pass("initial_states", Stage.CALL, steps.initial_states),
    Pass("final_states", Stage.CALL, steps.final_states, when=lambda c: c.variant.finals),
    Pass("lengths", Stage.CALL, steps.lengths),
    Pass("complex_as_real", Stage.CALL, steps.complex_as_real),
    #
    Pass("simplify", Stage.GRAPH, steps.simplified, skip="simplify"),
    Pass("split_linear", Stage.GRAPH, steps.split_linear, skip="split"),
    Pass("factor", Stage.GRAPH, steps.factor, skip="gather"),
    Pass("hoist", Stage.GRAPH, steps.hoisted, skip="hoist"),
    Pass("simplify", Stage.GRAPH, steps.simplified, skip="simplify"),
    Pass("hops", Stage.GRAPH, steps.hops_as_one, skip="hops"),
    Pass("attention", Stage.GRAPH, steps.attention_as_one, skip="attend"),
    Pass("torch_layers", Stage.GRAPH, steps.torch_layers, skip="match"),
    Pass("scan", Stage.GRAPH, steps.scans, skip="scan"),
    Pass("strategies", Stage.GRAPH, steps.strategies),
    #
    Pass("simplify", Stage.CHOSEN, steps.simplified, skip="simplify"),
    Pass("horizontal", Stage.CHOSEN, steps.horizontal, skip="merge"),
    Pass("multiply_add", Stage.CHOSEN, steps.multiply_add_in_loops, skip="contract"),
    Pass("memory_order", Stage.CHOSEN, steps.memory_order),
    #
    Pass("regions", Stage.PROGRAM, steps.regions),
    Pass("side_by_side", Stage.PROGRAM, steps.side_by_side, "beside", steps.with_kernels),
    Pass("stacked", Stage.PROGRAM, steps.stacked_loops, "stacked", steps.with_kernels),
    Pass("add_matmul", Stage.PROGRAM, steps.add_matmul_outside),
    Pass("attention_rng", Stage.PROGRAM, steps.attention_rng, when=lambda c: c.recompute),
    Pass("regions", Stage.PROGRAM, steps.regions),
    Pass("side_by_side", Stage.PROGRAM, steps.side_by_side, "beside", steps.with_kernels),
    Pass("stacked", Stage.PROGRAM, steps.stacked_loops, "stacked", steps.with_kernels),
    Pass("rng", Stage.PROGRAM, steps.loop_rng, when=lambda c: c.kernels and c.recompute),
    #
    Pass("sink", Stage.LOOP, steps.sink_before, "sink", lambda c: c.loop.stop is None),
    Pass("extract", Stage.LOOP, steps.cut_out),
    Pass("active_rows", Stage.LOOP, steps.active_rows, when=lambda c: c.sorted_rows),
    #
    Pass("differentiate", Stage.DERIVED, steps.gradients),
    Pass("rematerialize", Stage.DERIVED, steps.rematerialized, when=steps.left_to_cost),
    Pass("recompute_unsaved", Stage.DERIVED, steps.unsaved, when=lambda c: c.saved is not None),
    #
    Pass("simplify", Stage.BACKWARD, steps.simplified, skip="simplify"),
    Pass("horizontal", Stage.BACKWARD, steps.horizontal_backward, skip="merge"),
    Pass("multiply_add", Stage.BACKWARD, steps.multiply_add_in_loops, skip="contract"),
    Pass("outside_views", Stage.BACKWARD, steps.outside_views),
    #
    Pass("softmax_backward", Stage.ATTENTION, steps.softmax_gradients, when=steps.is_attention),
    Pass("hops_backward", Stage.ATTENTION, steps.hops_gradients, when=steps.is_hops),
    #
    Pass("multiply_add", Stage.FUNCTION, steps.multiply_add, skip="contract"),
    Pass("add_matmul", Stage.FUNCTION, steps.add_matmul),
    Pass("regions", Stage.FUNCTION, steps.regions),
    Pass("sink", Stage.FUNCTION, steps.sink_around, "sink", lambda c: not c.kernels),
    Pass("side_by_side", Stage.FUNCTION, steps.side_by_side, "beside", steps.with_kernels),
    Pass("stacked", Stage.FUNCTION, steps.stacked_loops, "stacked", steps.with_kernels),
    #
    Pass("invariants", Stage.INVARIANTS, steps.invariants),
    #
    Pass("step_graph", Stage.STEP, steps.step_graph),
)
# the words of `skip=`: of the passes, and of what the triton backend leaves out
SWITCHABLE = (
    *("simplify", "split", "gather", "hoist", "merge", "contract", "hops", "attend", "match"),
    *("scan", "sink", "beside", "stacked", "resident", "cooperative", "fit"),
)


def run(stage: Stage, ir: IR, context: Context) -> IR:
    """The graph after all passes of a stage that apply, verified after each of them."""
    for step in PASSES:
        if step.stage is stage and step.applies(context):
            after = step.run(ir, context)
            if after is not ir:
                verify(after, step.name)
            observe(step.name, context.title, ir, after)
            ir = after
    return ir


@dataclass(frozen=True)
class Variant:
    """What a plan is specialised on: which lengths and states a call gives, and which it wants."""

    ragged: frozenset[str] = frozenset()
    resumed: frozenset[str] = frozenset()
    finals: bool = False
    recorded: frozenset[str] = frozenset()
    probed: frozenset[str] = frozenset()
    target: Target = field(default_factory=Target)


@dataclass
class Plan:
    """A planned graph. `ir` is final, `regions` its parts in order, `order` the user's axes."""

    ir: IR
    regions: list[Region]
    order: list[str]
    passes: frozenset[str]
    seconds: float
    decisions: list[Decision]
    notes: list[Note] = field(default_factory=list)


def plan(ir: IR, variant: Variant, carried: list[int], passes: frozenset[str]) -> Plan:
    """The plan of a checked graph. `carried` are the delays whose final values a call may want."""
    start = time.perf_counter()
    order = list(ir.axes)
    context = CallContext(passes=passes, variant=variant, carried=carried)
    for stage in (Stage.REQUESTED, Stage.CALL, Stage.GRAPH, Stage.CHOSEN):
        ir = run(stage, ir, context)
    seconds = time.perf_counter() - start
    made = Plan(ir, partition(ir), order, passes, seconds, context.decisions, context.notes)
    show("plan", ir.name, lambda: _decided(made))
    return made


def checked(ir: IR) -> IR:
    """The graph in topological order, without wires, each operation's operands of one dtype.

    Raises UnclosedStateError, CycleError, AxisError, DirectionError, NonCausalError, GraphError.
    """
    check_states(ir)
    ir = run(Stage.CHECKED, ir, Context())
    check_axes(ir)
    return ir


def requested(ir: IR, variant: Variant) -> IR:
    """Adds the states that a call needs: sequences and probes of states."""
    return run(Stage.REQUESTED, ir, CallContext(variant=variant))


def attention_backward(
    part: AttentionRegion, wanted: Sequence[int], results: Sequence[int]
) -> Derived:
    """The gradients of an attention with respect to the reads `wanted`, from those of `results`."""
    context = AttentionContext(title=part.name, part=part, wanted=wanted, results=results)
    run(Stage.ATTENTION, part.ir, context)
    assert context.derived is not None
    return context.derived


def hops_backward(part: Hops, wanted: Sequence[int], results: Sequence[int]) -> Backward:
    """The gradients of hops with respect to the reads `wanted`, from those of `results`."""
    context = AttentionContext(title=part.name, part=part, wanted=wanted, results=results)
    run(Stage.ATTENTION, part.ir, context)
    assert context.hops is not None
    return context.hops


def finished(ir: IR, passes: frozenset[str]) -> IR:
    """A graph of one of torch's layers, after the passes that follow the choice of strategies."""
    return run(Stage.CHOSEN, ir, Context(passes=passes, title=ir.name))


def _decided(made: Plan) -> str:
    """One line for each decision of a plan, and for each softmax."""
    lines = [f"loop {d.loop} over {d.axis}: {d.strategy}: {d.reason}" for d in made.decisions]
    lines += [f"{n.name} over {n.axis}: {n.reason or 'tiled'}" for n in made.notes]
    return "\n".join(lines or ["nothing to decide: no loop, no softmax over an axis"])
