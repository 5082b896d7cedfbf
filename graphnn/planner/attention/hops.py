"""Fusion of hops: a memory that is addressed several times becomes one operation, one launch.

A hop is a softmax over an axis whose query depends on the result of the hop before. Only hops
outside loops are fused, and only if each example has its own memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from graphnn.ir.graph import IR, Node
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS, build
from graphnn.planner.attention.attend import Note, attend, follow
from graphnn.planner.attention.insert import rewire
from graphnn.planner.attention.tiles import OWN, RESHAPED, NotFusable, of_one_dtype
from graphnn.planner.core.loop_graph import given
from graphnn.planner.core.regions import loop_numbers
from graphnn.planner.core.rewrite import reachable

OVER = frozenset({"axis_sum", "axis_logsumexp", "axis_softmax"})
OWN_SUMS = frozenset({"sum", "amax"})


@dataclass(eq=False)
class Hops:
    """Softmaxes over `axis` and the nodes between them, as a graph.

    `ir` has a `given` node for each value in `reads`. `results` vary over `axes`, the axes of an
    example. `sums_of` maps each softmax to the sums that it weights. All variants of one region
    have the same `origin`.
    """

    name: str
    axis: str
    axes: frozenset[str]
    ir: IR
    reads: list[int]
    results: list[int]
    sums_of: dict[int, list[int]]
    origin: object = field(default_factory=object)

    @property
    def ends(self) -> list[int]:
        """The nodes that gradients come from."""
        return self.results

    @property
    def count(self) -> int:
        """The number of hops."""
        return sum(n.op == "axis_softmax" for n in self.ir)

    @property
    def sums(self) -> list[int]:
        """The reductions over the axis, which are saved for the backward."""
        return [n.id for n in self.ir if n.op in OVER - {"axis_softmax"}]

    @property
    def softs(self) -> list[int]:
        """The softmaxes, whose logsumexp is saved for the backward."""
        return [n.id for n in self.ir if n.op == "axis_softmax"]


def hops(ir: IR) -> tuple[IR, list[Note]]:
    """The graph with hops as single nodes, and a note on each chain of them."""
    notes: list[Note] = []
    home = loop_numbers(ir) if any(n.op == "axis_softmax" for n in ir) else {}
    for chain in chains(ir, home):
        if any(i not in ir.nodes for i in chain):
            continue  # already part of another chain
        first = ir[chain[0]]
        name = f"{len(chain)} hops over {first.attrs['axis']}"
        form = (name, first.label, first.attrs["axis"], str(first.site or ""))
        try:
            part = _cut(ir, chain, home, name)
        except NotFusable as why:
            notes.append(Note(*form, f"one launch per hop: {why}", hops=True))
            continue
        notes.append(Note(*form, "", part, hops=True))  # type: ignore[arg-type]
        ir = _inserted(ir, part)
    return ir, notes


def chains(ir: IR, home: dict[int, int]) -> list[list[int]]:
    """Chains of softmaxes over the same axes, in which each depends on the one before."""
    found: list[list[int]] = []
    for node in ir:
        if node.op != "axis_softmax" or node.id in home or node.dtype != ir.floating:
            continue
        above = reachable(ir, [node.id])
        for chain in found:
            last = ir[chain[-1]]
            if chain[-1] in above and last.axes == node.axes and last.attrs == node.attrs:
                chain.append(node.id)
                break
        else:
            found.append([node.id])
    return [chain for chain in found if len(chain) > 1]


def _cut(ir: IR, chain: list[int], home: dict[int, int], name: str) -> Hops:
    """The region of a chain of hops. Raises NotFusable with a reason for users."""
    axis, full = ir[chain[0]].attrs["axis"], ir[chain[0]].axes
    inside = _region(ir, chain, axis, full)
    computed = _from_positions(ir, inside)
    order = [i for i in ir.nodes if i in inside | computed]
    if any(i in home for i in order):
        raise NotFusable("a loop lies between two of them")
    cut, reads = ir.empty(), []
    for node in (ir[i] for i in order):
        for source in ir.operands(node):
            if source.id not in inside | computed and source.id not in cut.nodes:
                own = source.op in OWN
                cut.insert(source if own else given(source))
                reads += [source.id] * (not own)
        if node.id in inside:
            _check(ir, node, axis, full)
        cut.insert(node)
    for node in (cut[i] for i in reads):
        if node.dtype.is_floating_point and axis in node.axes and node.axes != full:
            raise NotFusable(
                f"'{node.label}' is shared by several queries, which can read its tiles together"
            )
    sums = _weighted(ir, [i for i in order if ir[i].op == "axis_softmax"], home)
    results = _results(ir, inside, full - {axis})
    of_one_dtype(ir, [*reads, *results])
    cut.outputs = {f"r{k}": i for k, i in enumerate(results)}
    return Hops(name, axis, full - {axis}, cut, reads, results, sums)


def _weighted(ir: IR, chain: list[int], home: dict[int, int]) -> dict[int, list[int]]:
    """The sums that each softmax weights. Raises NotFusable if anything else reads its weights."""
    found: dict[int, list[int]] = {}
    for i in chain:
        through, found[i] = follow(ir, ir[i], home)
        if readers := _readers(ir, through, found[i]):
            raise NotFusable(
                f"the weights of '{ir[i].label}' are also read by {', '.join(readers)}"
            )
    sums = [j for mine in found.values() for j in mine]
    if len(set(sums)) < len(sums):
        raise NotFusable("two of them weight the same sum")
    return found


def _readers(ir: IR, through: set[int], sums: list[int]) -> list[str]:
    """Readers of the weights, or of their multiples, other than the sums that they weight."""
    users = ir.users()
    other = {j: ir[j] for i in sorted(through) for j in users[i] if j not in {*through, *sums}}
    found = [f"output '{name}'" for name, i in ir.outputs.items() if i in through]
    return found + [f"'{n.label}' at {n.site}" if n.site else n.label for n in other.values()]


def _region(ir: IR, chain: list[int], axis: str, full: frozenset[str]) -> set[int]:
    """The nodes from the scores of the first softmax to the last sums over the axis."""
    first = _scores(ir, chain[0], full)
    below: set[int] = set(first)
    for node in ir:
        if any(i in below for i in node.inputs):
            below.add(node.id)
    ends = [i for i in below if ir[i].op in OVER and ir[i].attrs["axis"] == axis]
    ends = [i for i in ends if ir[ir[i].inputs[0]].axes == full]
    return reachable(ir, ends) & below


def _from_positions(ir: IR, inside: set[int]) -> set[int]:
    """Values computed from positions and lengths alone, which a kernel recomputes."""
    found: set[int] = set()
    known: dict[int, bool] = {}
    for node in ir:
        made = node.op == "cast" or (OPS[node.op].family == "pointwise" and _supported(node))
        known[node.id] = node.op in (*OWN, "length")
        known[node.id] |= made and all(known[i] for i in node.inputs)
    stack = [j for i in inside for j in ir[i].inputs if ir[j].dtype.is_floating_point]
    while stack:
        i = stack.pop()
        if known[i] and ir[i].op not in (*OWN, "length") and i not in found | inside:
            found.add(i)
            stack += ir[i].inputs
    return found


def _scores(ir: IR, softmax: int, full: frozenset[str]) -> set[int]:
    """The nodes that compute the scores of a softmax: one scalar per position."""
    found, stack = {softmax}, [ir[softmax].inputs[0]]
    while stack:
        node = ir[stack.pop()]
        scalar = node.axes == full and not node.shape and node.dtype.is_floating_point
        if scalar and node.id not in found and _supported(node):
            found.add(node.id)
            stack += node.inputs
    return found


def _supported(node: Node) -> bool:
    op = OPS[node.op]
    if node.op in ("einsum", *RESHAPED, *OWN_SUMS):
        return True
    return op.family == "pointwise" and bool(op.triton_text)


def _check(ir: IR, node: Node, axis: str, full: frozenset[str]) -> None:
    """Raise NotFusable unless a kernel of hops can compute a node."""
    where = f"'{node.label}' at {node.site}" if node.site else f"'{node.label}'"
    if node.axes not in (full, full - {axis}):
        raise NotFusable(f"{where} varies over other axes")
    if sum(n != 1 for n in node.shape) > 1:
        raise NotFusable(f"{where} has several dimensions")
    if node.op in OVER and node.attrs["axis"] == axis:
        return
    if not _supported(node):
        raise NotFusable(f"{where} is a '{node.op}', which kernels of hops do not support")
    if node.op == "einsum":
        left, right, out = split_sub(node.attrs["sub"])
        if node.attrs["contract"] or max(map(len, (left, right))) > 2 or len(out) > 1:
            raise NotFusable(f"{where} is a matmul that kernels of hops do not support")
    weights = [x for x in ir.operands(node) if not x.axes and x.dtype.is_floating_point]
    if axis in node.axes and any(x.op not in OWN for x in weights):
        raise NotFusable(f"{where} has different weights at each position")


def _results(ir: IR, inside: set[int], axes: frozenset[str]) -> list[int]:
    """The nodes that are read from outside. Raises NotFusable if one varies over the axis."""
    read = {j for n in ir if n.id not in inside for j in n.inputs}
    read |= {*ir.outputs.values(), *ir.closings.values(), *ir.until.values()}
    results = [i for i in ir.nodes if i in inside & read]
    for node in (ir[i] for i in results):
        if node.axes != axes:
            raise NotFusable(f"'{node.label}' is also read at each position of the axis")
    return results


def _inserted(ir: IR, part: Hops) -> IR:
    """The graph with the region as one node, from which its results are picked."""
    new, last = ir.copy(), ir[part.results[-1]]
    form = {"shape": last.shape, "dtype": last.dtype, "axes": part.axes, "site": last.site}
    attrs = {"part": part, "axes": part.axes}
    node = build(new, "attend", part.reads, attrs, name=part.name, **form)  # type: ignore[arg-type]
    swap = {}
    for which, i in enumerate(part.results):
        old = ir[i]
        new.here = (old.name, old.site)
        swap[i] = build(new, "pick", (node,), {"which": which}, shape=old.shape, dtype=old.dtype)
    new.here = ("", None)
    return rewire(new, swap)


def as_graph(part: Hops) -> IR:
    """The hops as a graph of its own, with one attention region per hop.

    It has an input for each value read, named by its number, and an output for each result.
    """
    ir = part.ir.copy()
    for k, i in enumerate(part.reads):
        node = ir[i]
        attrs = {"key": str(k), "over": ir.layout(node.axes), "batched": False}
        ir.nodes[i] = replace(node, op="input", attrs=attrs)
    return attend(ir)[0]


def in_memory_order(part: Hops, axes: Iterable[str]) -> Hops:
    """The region with its axes in the memory order of the graph around it."""
    known = part.ir.axes
    order = {a: known[a] for a in axes if a in known}
    return replace(part, ir=replace(part.ir.copy(), axes=order))
