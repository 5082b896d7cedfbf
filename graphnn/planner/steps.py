"""The passes of the pipeline as functions of a graph and the context of their stage.

A pass returns a graph and records other results in its context: see `planner.contexts`.
"""

from __future__ import annotations

from graphnn.backends.random import random_nodes
from graphnn.ir.graph import IR
from graphnn.planner.algebra.add_matmul import fuse_addmm
from graphnn.planner.algebra.factor import factor_out
from graphnn.planner.algebra.hoist import hoist
from graphnn.planner.algebra.horizontal import fuse_horizontal
from graphnn.planner.algebra.multiply_add import fuse_multiply_add
from graphnn.planner.algebra.simplify import simplify
from graphnn.planner.algebra.split_linear import split_linear_maps
from graphnn.planner.attention.attend import attend
from graphnn.planner.attention.hops import Hops, hops
from graphnn.planner.autodiff.hops import backward as hops_backward
from graphnn.planner.autodiff.loops import differentiate
from graphnn.planner.autodiff.rematerialize import rematerialize
from graphnn.planner.autodiff.softmax import softmax_backward
from graphnn.planner.boundary.check import without_wires
from graphnn.planner.boundary.complex_as_real import as_real
from graphnn.planner.boundary.dtype_promotion import promote
from graphnn.planner.boundary.invariants import split_invariants
from graphnn.planner.boundary.lengths import mask
from graphnn.planner.boundary.memory_order import order_axes, remake_views
from graphnn.planner.boundary.retype import in_dtype
from graphnn.planner.boundary.states import add_finals, probe, record, resume
from graphnn.planner.boundary.step_graph import step_along
from graphnn.planner.contexts import (
    AttentionContext,
    BackwardContext,
    CallContext,
    Context,
    DeriveContext,
    LoopContext,
    PartsContext,
    ProgramContext,
    StepContext,
    TraceContext,
)
from graphnn.planner.core.loop_graph import extract
from graphnn.planner.core.regions import Whole, partition
from graphnn.planner.loops.active_rows import drop_masks
from graphnn.planner.loops.choose import keep_loops, use_scans, use_torch_layers
from graphnn.planner.loops.rng import seed_attention, seed_loops
from graphnn.planner.loops.side_by_side import pair_loops
from graphnn.planner.loops.sink import sink, sunk_before
from graphnn.planner.loops.stacked import stack_loops


def retype(ir: IR, context: TraceContext) -> IR:
    """Values that follow the model's dtype take the one that its parameters have now."""
    return in_dtype(ir, context.floating, context.owner)


def promote_dtypes(ir: IR, context: Context) -> IR:
    """Operands of several dtypes are cast to the one that torch computes in."""
    return promote(ir)


def inline_wires(ir: IR, context: Context) -> IR:
    """States without a delay are replaced by the values that close them."""
    return without_wires(ir)


def probe_states(ir: IR, context: CallContext) -> IR:
    """The states that a call probes get an input at each position, to read gradients from."""
    return probe(ir, context.variant.probed)


def record_states(ir: IR, context: CallContext) -> IR:
    """The states that a call records become outputs, over the whole axis."""
    return record(ir, context.variant.recorded)


def initial_states(ir: IR, context: CallContext) -> IR:
    """The states that a call gives start from inputs."""
    return resume(ir, context.variant.resumed)


def final_states(ir: IR, context: CallContext) -> IR:
    """The final values of states become outputs."""
    return add_finals(ir, list(context.carried), context.variant.ragged)


def lengths(ir: IR, context: CallContext) -> IR:
    """Axes whose lengths a call gives are masked beyond the end of each example."""
    return mask(ir, context.variant.ragged)


def complex_as_real(ir: IR, context: CallContext) -> IR:
    """Complex values in loops become real ones, of one more dimension."""
    return as_real(ir)


def simplified(ir: IR, context: Context) -> IR:
    """Local rules: neutral elements, constants, views of views, equal nodes."""
    return simplify(ir)


def split_linear(ir: IR, context: Context) -> IR:
    """Linear maps of a concatenation become sums, where a part can leave a loop by it."""
    return split_linear_maps(ir)


def factor(ir: IR, context: Context) -> IR:
    """Sums of products with a common factor become one product."""
    return factor_out(ir)


def hoisted(ir: IR, context: Context) -> IR:
    """What does not depend on a loop's states leaves the loop."""
    return hoist(ir)


def hops_as_one(ir: IR, context: CallContext) -> IR:
    """Chains of attention whose query is the last one's result become one operation."""
    ir, notes = hops(ir)
    context.notes += notes
    return ir


def attention_as_one(ir: IR, context: CallContext) -> IR:
    """A softmax over an axis and the sums it weights become one operation, computed in tiles."""
    ir, notes = attend(ir)
    context.notes += notes
    return ir


def torch_layers(ir: IR, context: CallContext) -> IR:
    """Loops that are one of torch's recurrent layers become calls of it, if it is faster."""
    ir, decisions, context.matches = use_torch_layers(ir, context.variant.target)
    context.decisions += decisions
    return ir


def scans(ir: IR, context: CallContext) -> IR:
    """Loops whose state enters as a(t) * z + b(t) become parallel scans."""
    ir, decisions = use_scans(ir)
    context.decisions += decisions
    return ir


def strategies(ir: IR, context: CallContext) -> IR:
    """The remaining loops stay loops; the decision records why."""
    context.decisions += keep_loops(ir, context.variant.target, context.matches)
    return ir


def horizontal(ir: IR, context: Context) -> IR:
    """Linear maps of one value become one, and so do pointwise operations on neighbouring slices.

    Only those that feed the same outputs: a loss may read one output alone.
    """
    return fuse_horizontal(ir)


def horizontal_backward(ir: IR, context: BackwardContext) -> IR:
    """The same for a derived graph, whatever outputs it feeds unless it is differentiated again."""
    return fuse_horizontal(ir, derived=not context.further)


def multiply_add_in_loops(ir: IR, context: Context) -> IR:
    """A product and a sum in a loop become one operation."""
    return fuse_multiply_add(ir)


def multiply_add(ir: IR, context: Context) -> IR:
    """A product and a sum become one operation, outside loops too: nothing differentiates them."""
    return fuse_multiply_add(ir, everywhere=True)


def memory_order(ir: IR, context: Context) -> IR:
    """Axes get the order that their dimensions have in memory: those of loops first."""
    return order_axes(ir)


def outside_views(ir: IR, context: Context) -> IR:
    """Views of a loop's values that are read outside are made again outside."""
    return remake_views(ir)


def with_kernels(context: PartsContext) -> bool:
    """Whether loops become kernels, of which two may be one launch."""
    return context.kernels


def regions(ir: IR, context: PartsContext) -> IR:
    """The graph's parts in order: nodes over whole axes, and loops."""
    context.parts = [r if isinstance(r, Whole) else [r] for r in partition(ir)]
    return ir


def side_by_side(ir: IR, context: PartsContext) -> IR:
    """Independent loops over one axis become pairs."""
    context.parts = pair_loops(ir, partition(ir))
    return ir


def stacked_loops(ir: IR, context: PartsContext) -> IR:
    """Loops that feed each other become one, if that is faster."""
    assert context.together is not None
    context.parts = stack_loops(ir, context.parts, context.together)
    return ir


def add_matmul_outside(ir: IR, context: ProgramContext) -> IR:
    """`c + a·b` becomes one operation, but not in loops: they are still to be differentiated.

    Nor in what a kernel computes between two loops that it runs as one.
    """
    joint = {i for loop in context.loops() for i in loop.nodes} if context.kernels else set()
    return fuse_addmm(ir, in_loops=False, excluded=joint)


def add_matmul(ir: IR, context: PartsContext) -> IR:
    """`c + a·b` becomes one operation; kernels fuse_addmm it in their loops by themselves."""
    return fuse_addmm(ir, in_loops=not context.kernels)


def attention_rng(ir: IR, context: ProgramContext) -> IR:
    """Dropout that only attention reads is drawn from a seed, tile by tile."""
    return seed_attention(ir, context.order, {n.id for n in random_nodes(ir)})


def loop_rng(ir: IR, context: ProgramContext) -> IR:
    """Noise that only loops read is drawn from a seed in their kernels."""
    noise = {n.id for n in random_nodes(ir)}
    return seed_loops(ir, context.order, [loop.nodes for loop in context.loops()], noise)


def sink_before(ir: IR, context: LoopContext) -> IR:
    """Wide pointwise work that only one loop reads moves into its steps."""
    context.absorbed = sunk_before(ir, context.loop, context.results)
    return ir


def sink_around(ir: IR, context: PartsContext) -> IR:
    """Wide pointwise work before and after a function's one loop moves into its steps."""
    moved = sink(ir, partition(ir), set(ir.outputs.values()))
    context.parts = [r if isinstance(r, Whole) else [r] for r in moved]
    return ir


def cut_out(ir: IR, context: LoopContext) -> IR:
    """The loop becomes a graph of its own, with what it reads as inputs."""
    context.cut = extract(ir, context.loop, context.outside, context.absorbed)
    return context.cut.ir


def active_rows(ir: IR, context: LoopContext) -> IR:
    """A loop whose steps run on the examples that have not ended needs no masks of its states."""
    assert context.cut is not None
    context.cut = drop_masks(context.cut, context.whole)
    return context.cut.ir


def gradients(ir: IR, context: DeriveContext) -> IR:
    """The gradient graph of a loop."""
    context.derived = differentiate(context.loop, context.wanted, bool(context.recompute))
    return context.derived.ir


def left_to_cost(context: DeriveContext) -> bool:
    """Whether the cost model decides what is recomputed."""
    return context.recompute is None and context.kernels


def rematerialized(ir: IR, context: DeriveContext) -> IR:
    """Values that a kernel computes faster than it loads them are computed again."""
    context.again = rematerialize(context.loop, context.gradients)
    if context.again:
        context.derived = differentiate(context.loop, context.wanted, again=context.again)
    return context.gradients.ir


def unsaved(ir: IR, context: DeriveContext) -> IR:
    """Recompute values that the forward pass did not return."""
    assert context.saved is not None
    while lost := set(context.gradients.saved).difference(context.saved):
        context.again |= lost
        options = bool(context.recompute), context.again
        context.derived = differentiate(context.loop, context.wanted, *options)
    return context.gradients.ir


def is_hops(context: AttentionContext) -> bool:
    """Whether a part consists of several attentions in a chain."""
    return isinstance(context.part, Hops)


def is_attention(context: AttentionContext) -> bool:
    """Whether a part is one attention."""
    return not isinstance(context.part, Hops)


def softmax_gradients(ir: IR, context: AttentionContext) -> IR:
    """The gradient graph of one attention, all values recomputed."""
    assert not isinstance(context.part, Hops)
    context.derived = softmax_backward(context.part, context.wanted, context.results)
    return context.derived.ir


def hops_gradients(ir: IR, context: AttentionContext) -> IR:
    """The gradient graph of hops; values that vary over the axis are recomputed."""
    assert isinstance(context.part, Hops)
    context.hops = hops_backward(context.part, context.wanted, context.results)
    return context.hops.ir


def invariants(ir: IR, context: StepContext) -> IR:
    """What is the same at every position of the axis is cut off."""
    context.cut = split_invariants(ir, context.axis)
    return context.cut.steps


def step_graph(ir: IR, context: StepContext) -> IR:
    """Values of earlier positions that a step reads come from caches."""
    found = step_along(ir, context.axis)
    context.caches = found.caches
    return found.ir
