"""A plan as text: what runs before, in and after each loop, how, and why."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphnn.backends.torch.operators.loop import LoopOperator
from graphnn.backends.torch.program import Program
from graphnn.ir.graph import IR, Node
from graphnn.kernels.ir.symbols import visible
from graphnn.kernels.select.strategies import strategy_name
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.attention.hops import Hops
from graphnn.planner.attention.statistics import StatisticsRegion
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.regions import Loop, Whole, partition
from graphnn.planner.loops.choose import LAYER, Decision, Fallback, fallbacks, loop_name
from graphnn.planner.pipeline import Plan

SILENT = frozenset({"const", "parameter", "tensor", "size", "index", "length", "given", "pick"})


def explain(plan: Plan, program: Program | None, backend: str) -> str:
    """The text of `model.explain()`, one row per operation.

    `program` is None for the reference backend, which generates none.
    """
    ir = plan.ir
    loops = [r for r in plan.regions if isinstance(r, Loop)]
    lines = [
        f"{ir.name}: {len(ir)} operations, {_count(len(plan.decisions), 'loop')}; "
        f"planned in {plan.seconds * 1e3:.1f} ms, for every length and batch; backend {backend}"
    ]
    if backend == "reference":
        lines.append("  the reference evaluates the unplanned definition, one position at a time;")
        lines.append("  the rows below are those of backend='torch'")
    numbered = {id(loop): n for n, loop in enumerate(loops)}
    for k, region in enumerate(plan.regions):
        if isinstance(region, Whole):
            lines += _whole(ir, region, _when(plan, k, numbered, loops))
        else:
            of = program.program_of if program is not None else {}
            lines += _loop(ir, region, plan, of.get(region.states[0]))
    lines += _direct(plan, program)
    lines += _attention(plan, program)
    outside = [ir[i] for r in plan.regions if isinstance(r, Whole) for i in r.nodes]
    lines += [
        f"falls back, outside loops: {_without_row(f)}: torch runs it over the whole axis by vmap"
        for f in fallbacks(outside)
    ]
    if not any(d.fallbacks for d in plan.decisions) and not fallbacks(outside):
        lines.append("nothing falls back")
    return "\n".join(map(visible, lines))


def _without_row(fallback: Fallback) -> str:
    """The call and the reason of a fallback."""
    site = fallback.site or "?"
    return f"'{fallback.called}' at {site} has no row in the operations table"


def _count(n: int, word: str) -> str:
    return f"{n} {word}{'' if n == 1 else 's'}"


def _when(plan: Plan, k: int, numbered: dict[int, int], loops: list[Loop]) -> str:
    before = [r for r in plan.regions[:k] if isinstance(r, Loop)]
    after = [r for r in plan.regions[k + 1 :] if isinstance(r, Loop)]
    if not before and not after:
        return "over whole axes"
    if not before:
        return f"before loop {loop_name(plan.ir, after[0])}, over whole axes"
    if not after:
        return f"after loop {loop_name(plan.ir, before[-1])}, over whole axes"
    return (
        f"between loops {loop_name(plan.ir, before[-1])} and {loop_name(plan.ir, after[0])}, "
        "over whole axes"
    )


def _whole(ir: IR, region: Whole, when: str) -> list[str]:
    rows = _rows(ir, [ir[i] for i in region.nodes if ir[i].op not in SILENT])
    return [f"{when}:", *(f"  {row}" for row in rows)] if rows else []


def _rows(ir: IR, nodes: Sequence[Node]) -> list[str]:
    """Rows in aligned columns: name, operation with sizes, axes, and the user's line."""
    axes = [" x ".join(ir.layout(n.axes)) or "once" for n in nodes]
    columns = [[n.label for n in nodes], [_operation(ir, n) for n in nodes], axes]
    widths = [max(map(len, c), default=0) for c in columns]
    return [
        "  ".join([*map(str.ljust, cells, widths), str(n.site or "")]).rstrip()
        for n, *cells in zip(nodes, *columns, strict=True)
    ]


def _operation(ir: IR, node: Node) -> str:
    if node.op in ("einsum", "affine"):
        return _matmul(ir, node)
    if node.op == "opaque":
        return f"torch.{node.attrs['called']} (opaque)"
    if node.op == "aten":
        return f"torch's {LAYER[node.attrs['kind']]} layer {tuple(node.shape)}"
    if node.op == "attend":
        part = node.attrs["part"]
        word = f"{part.count} hops over {part.axis}" if isinstance(part, Hops) else "in tiles"
        return f"{word} {tuple(node.shape)}"
    detail = f" over {node.attrs['axis']}" if OPS[node.op].family == "axis" else ""
    return f"{node.op}{detail} {tuple(node.shape)}"


def _matmul(ir: IR, node: Node) -> str:
    a, b = (ir[i] for i in node.inputs[-2:])
    left, right, _ = split_sub(node.attrs["sub"])
    summed = f", summed over {', '.join(ir.layout(node.attrs['contract']))}"
    text = f"{_sizes(a)} by {_sizes(b)} -> {_sizes(node)}"
    word = "linear map" if not b.axes and len(right) == 2 and left else "matmul"
    return f"{word} {text}{summed if node.attrs['contract'] else ''}"


def _sizes(node: Node) -> str:
    return "x".join(map(str, node.shape)) or "1"


def _loop(ir: IR, loop: Loop, plan: Plan, program: LoopOperator | None) -> list[str]:
    name = loop_name(ir, loop)
    decision = next(d for d in plan.decisions if d.loop == name and d.axis == loop.axis)
    way = "from the end" if loop.reverse else "from the start"
    strategy, reason = _chosen(program, decision)
    lines = [f"loop {name} over {loop.axis}, {way}: {strategy_name(strategy)}"]
    lines += [f"  {text}" for text in _why(reason)]
    lines += [f"  {text}" for text in (program.candidates() if program is not None else [])]
    lines += _ragged(program, strategy)
    for i in loop.states:
        lines.append(f"  state {_state(ir, ir[i])}")
    lines.append("  each step:")
    lines += [f"    {row}" for row in _body(ir, loop, plan)]
    lines += [
        f"  falls back: {_without_row(f)}: torch runs it one step at a time; write it with the "
        "functions of the table to have it fused"
        for f in decision.fallbacks
    ]
    lines += [f"  falls back: {text}" for text in _unwritten(program)]
    if program is not None:
        lines += _backward(program)
    return lines


def _chosen(program: LoopOperator | None, decision: Decision) -> tuple[str, str]:
    """The execution strategy of a loop and the reason for it: the kernel's, if it has one."""
    choices = program.choices() if program is not None else []
    if not choices:
        return decision.strategy, decision.reason
    return choices[0].strategy, choices[0].reason


def _why(reason: str) -> list[str]:
    """The reason for a strategy, one line per part."""
    first, *more = reason.split("; ")
    return [f"why: {first}", *(f"     {text}" for text in more)]


def _ragged(program: LoopOperator | None, strategy: str) -> list[str]:
    """How a loop over examples of different lengths treats those that have ended."""
    if program is None or program.loop.ends is None or strategy in ("resident", "cooperative"):
        return []
    if program.ordered:
        return ["  ragged: each step computes the examples that still run, sorted by length"]
    why = "" if program.lowering else ": examples are not sorted along this axis"
    return [f"  ragged: every step computes all examples, masked{why}"]


def _unwritten(program: LoopOperator | None) -> list[str]:
    """The phases of a step for which no kernel could be written."""
    reasons = program.unwritten_phases() if program is not None else []
    return [f"{reason}: torch runs that phase, one call per operation" for reason in reasons]


def _state(ir: IR, node: Node) -> str:
    inits = [ir[i] for i in node.inputs]
    start = ", ".join(str(n.attrs["value"]) if n.op == "const" else n.label for n in inits)
    steps = node.attrs["steps"]
    ago = f"{abs(steps)} {'back' if steps > 0 else 'ahead'}"
    return (
        f"{node.label} {tuple(node.shape)}, {ago}, starts from {start}  {node.site or ''}".rstrip()
    )


def _body(ir: IR, loop: Loop, plan: Plan) -> list[str]:
    rows: list[str] = []
    for region in loop.body:
        if isinstance(region, Whole):
            inside = [i for i in region.nodes if i not in loop.states]
            rows += _rows(ir, [ir[i] for i in inside if ir[i].op not in SILENT])
        else:
            until = ", stops by itself" if region.stop is not None else ""
            rows.append(f"loop {loop_name(ir, region)} over {region.axis}{until}:")
            rows += [f"  {row}" for row in _body(ir, region, plan)]
    return rows


def _backward(program: LoopOperator) -> list[str]:
    derived, forward = program.derived, program.loop.ir
    if not derived.ir.outputs:
        return ["  backward: none, nothing that the loop reads has a gradient"]
    saved = [forward[i] for i in derived.saved]
    kept = ", ".join(f"{n.label} {tuple(n.shape)}" for n in saved) or "nothing"
    width = sum(_elements(n) for n in saved)
    lines = [f"  saved for backward: {kept}: {width} elements per example and position"]
    again = [
        forward[i].label for i in derived.recomputed if forward[i].op not in ("delay", "slice")
    ]
    lines.append(f"  recomputed in backward: {', '.join(again) or 'nothing'}")
    choices = program.choices()
    if len(choices) > 1:
        lines.append(f"  backward kernel: {strategy_name(choices[1].strategy)}")
        lines += [f"    {text}" for text in _why(choices[1].reason)]
        lines += [f"    {text}" for text in program.candidates(backward=True)]
    after = [
        derived.ir[i]
        for region in partition(derived.ir)
        if isinstance(region, Whole)
        for i in region.nodes
        if derived.ir[i].op == "einsum"
    ]
    lines.append("  backward: reversed loop" + ("; computed once after it:" * bool(after)))
    return lines + [f"    {row}" for row in _rows(derived.ir, after)]


def _attention(plan: Plan, program: Program | None) -> list[str]:
    """Softmaxes outside loops: how each is fused with its weighted sums, or why it is not.

    A softmax has several notes if its weights are also read otherwise, or if sums depend on others.
    """
    lines = []
    programs = {a.part.origin: a for a in program.attends} if program is not None else {}
    for note in plan.notes:
        where = f" at {note.place}" if note.place else ""
        if note.hops and note.reason:
            lines.append(f"{note.name}{where}: {note.reason}")
            continue
        if note.part is None:
            lines.append(f"softmax over {note.axis}{where}: computed by itself, {note.reason}")
            continue
        what = "reductions in tiles" if isinstance(note.part, StatisticsRegion) else "in tiles"
        lines.append(f"{note.name}{where}" + (":" if note.hops else f": {what}"))
        made = programs.get(note.part.origin)
        lines += [f"  {text}" for text in (made.report() if made is not None else ())]
        lines += [f"  {note.reason}"] * bool(note.reason)
        part = note.part if made is None else made.part
        lines += [f"  {text}" for text in ([] if isinstance(part, Hops) else _stored(part))]
    return lines


def _stored(part: AttentionRegion) -> list[str]:
    """Tensors as large as the weights that tiles read: stored ones, and random ones drawn again."""
    drawn = ", ".join(part.ir[i].label for i in part.reads if part.drawn(i))
    stored = ", ".join(part.stored)
    return [
        *[f"as large as the weights, and stored: {stored}"] * bool(stored),
        *[f"drawn again from a seed at each read: {drawn}"] * bool(drawn),
    ]


def _elements(node: Node) -> int:
    return math.prod(node.shape)


def _direct(plan: Plan, program: Program | None) -> list[str]:
    """Loops replaced by scans and by layers of torch, with the alternatives of each."""
    lines = []
    layers = {x.called: x for x in program.layers} if program is not None else {}
    for d in plan.decisions:
        if d.strategy in ("aten", "scan"):
            how = f"torch's {d.layer} layer" if d.layer else d.strategy
            lines.append(f"loop {d.loop} over {d.axis}: {how}")
            lines += [f"  {text}" for text in _why(d.reason)]
            layer = layers.get((d.loop, d.axis)) if d.strategy == "aten" else None
            lines += [f"  {text}" for text in (layer.report() if layer is not None else [])]
    return lines
