"""Attention fusion: a softmax over an axis and the sums it weights become one operation.

The operation runs tile by tile, so scores of queries and keys, and the values they are summed from,
are never stored. Only softmaxes outside loops are fused; within a step a softmax stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.algebra.split_linear import split_matmul
from graphnn.planner.attention.insert import insert_region, rewire, unused_name
from graphnn.planner.attention.region import TileMembers, independent
from graphnn.planner.attention.single_query import pick_queries
from graphnn.planner.attention.statistics import Source, tile_statistics
from graphnn.planner.attention.tiles import (
    AttentionRegion,
    NotFusable,
    Pattern,
    Writer,
    of_one_dtype,
    operands,
)
from graphnn.planner.core.regions import loop_numbers, positions, users_of
from graphnn.planner.core.rewrite import reachable, rewrite

# operations that may stand between a weight and a sum
LINEAR = frozenset({"mul", "reshape", "permute", "expand", "neg"})


NO_SUM = "no sum over '{axis}' of values that it weights"


@dataclass(frozen=True)
class Note:
    """The outcome for one softmax over an axis: its attention region, or why there is none."""

    name: str
    softmax: str
    axis: str
    place: str
    reason: str
    part: AttentionRegion | None = None
    hops: bool = False


def attend(ir: IR) -> tuple[IR, list[Note]]:
    """The graph with `attend` nodes, and a note on each softmax over an axis."""
    if not softmaxes(ir):
        return ir, []
    ir, single = pick_queries(ir)
    ir, notes, sources = fuse_sums(split_joined(ir))
    for softmax in dict.fromkeys([*(s.softmax for s in sources.values()), *softmaxes(ir)]):
        now = ir.nodes.get(softmax.id, softmax)
        if now.id not in single:
            ir, notes = fuse_statistics(ir, now, sources.get(now.id), notes)
    labels = {ir[i].label: text for i, text in single.items() if i in ir.nodes}
    return ir, [_single(n, labels) if n.softmax in labels else n for n in notes]


def _single(note: Note, labels: dict[str, str]) -> Note:
    """A note on a softmax whose weights are read at one query only."""
    reader = labels[note.softmax]
    return note if note.part else replace(note, reason=f"only for the one query of {reader}")


def softmaxes(ir: IR) -> list[Node]:
    """The softmaxes over an axis."""
    return [n for n in ir if n.op == "axis_softmax"]


def fuse_sums(ir: IR) -> tuple[IR, list[Note], dict[int, Source]]:
    """The graph with weighted sums as `attend` nodes, notes, and the node of each logsumexp."""
    notes, sources = list[Note](), dict[int, Source]()
    left = [n.id for n in softmaxes(ir)]
    while left:
        new, swap, again = ir.copy(), dict[int, int](), list[int]()
        for node in (ir[i] for i in left if i in ir.nodes):
            try:
                pattern, more = find(ir, node, [n.name for n in notes if n.part])
                writer = Writer(ir, pattern)
                part = writer.write()
            except NotFusable as why:
                if not any(n.softmax == node.label and n.part for n in notes):
                    notes.append(_note(node, node.label, str(why)))
                continue
            notes.append(_note(node, part.name, "", part))
            place, mine = insert_region(new, pattern, part, writer.dims, node.site)
            swap |= mine
            if not _waits(ir, pattern):
                sources.setdefault(node.id, Source(place, part, writer.dims, node))
            again += [node.id] * more
        ir, left = (rewire(new, swap) if swap else ir), again
    return ir, notes, sources


def _waits(ir: IR, pattern: Pattern) -> bool:
    """Whether a pattern reads a value computed from its own weights or logsumexp.

    Its `attend` node can then not provide the logsumexp for these.
    """
    softmax, order, users = ir[pattern.softmax], positions(ir), users_of(ir)
    same = [j for j in users[softmax.inputs[0]] if ir[j].inputs == softmax.inputs]
    made = {softmax.id, *(j for j in same if ir[j].op == "axis_logsumexp")}
    first = min(order[i] for i in made)
    seen, stack = set[int](), [*pattern.reads]
    while stack:
        i = stack.pop()
        if i in made:
            return True
        if i not in seen and order[i] > first:  # earlier nodes depend on neither
            seen.add(i)
            stack += ir[i].inputs
    return False


def fuse_statistics(
    ir: IR, softmax: Node, source: Source | None, notes: list[Note]
) -> tuple[IR, list[Note]]:
    """Compute other reductions of a softmax's weights and scores in tiles, if possible."""
    used = [n.name for n in notes if n.part]
    mine = next((n for n in notes if n.softmax == softmax.label), None)
    if mine is None or not (mine.part or mine.reason == NO_SUM.format(axis=mine.axis)):
        return ir, notes
    try:
        new = ir
        if source is None:
            new, source = logsumexp_only(ir, softmax, used)
        made = tile_statistics(new, softmax, source, used)
    except NotFusable as why:
        what = "weights" if softmax.id in ir.nodes else "scores"
        how = f"the {what} are stored too" if mine.part else "its weights are stored"
        reason = str(why) if str(why).startswith("for ") else f"because {why}"
        return ir, _with_text(notes, mine, f"{how}, {reason}")
    if made is None:
        return ir, notes
    names = ", ".join(made.reads)
    if mine.part is None:
        part = source.part
        notes = [
            replace(n, name=part.name, reason="", part=part) if n is mine else n for n in notes
        ]
        mine = next(n for n in notes if n.part is part)
    notes = _with_text(notes, mine, f"also read by {names}: weights are recomputed in tiles")
    return made.ir, notes + [_note(softmax, p.name, "", p) for p in made.parts]


def _with_text(notes: list[Note], note: Note, text: str) -> list[Note]:
    texts = (text, note.reason) if note.part else (note.reason, text)
    more = replace(note, reason="; ".join(t for t in texts if t))
    return [more if n is note else n for n in notes]


def logsumexp_only(ir: IR, softmax: Node, used: Sequence[str]) -> tuple[IR, Source]:
    """The graph with the logsumexp of a softmax that weights no sum. Raises NotFusable."""
    pattern, _ = find(ir, softmax, used, sums=False)
    writer, new = Writer(ir, pattern), ir.copy()
    part = writer.write()
    place, _ = insert_region(new, pattern, part, writer.dims, softmax.site)
    return new, Source(place, part, writer.dims, softmax)


def _note(node: Node, name: str, reason: str, part: AttentionRegion | None = None) -> Note:
    return Note(name, node.label, node.attrs["axis"], str(node.site or ""), reason, part)


def find(
    ir: IR, softmax: Node, used: Sequence[str] = (), sums: bool = True
) -> tuple[Pattern, bool]:
    """The pattern around a softmax, with or without its sums, and whether other sums are left.

    Sums are left if they depend on others. Raises NotFusable with a reason for users.
    """
    axis, home = softmax.attrs["axis"], loop_numbers(ir)
    if softmax.id in home:
        raise NotFusable("it is computed at each step of a loop")
    if softmax.dtype != ir.floating:
        raise NotFusable(f"its scores are {softmax.dtype} in a graph of {ir.floating}")
    score, top = topk_of(ir, softmax)
    if score.axes == {axis}:
        raise NotFusable("its scores vary over this axis only: there are no queries")
    chain, found = follow(ir, softmax, home)
    if sums and not found:
        raise NotFusable(NO_SUM.format(axis=axis))
    ready = independent(ir, found) if sums else []
    inner = TileMembers(ir, axis, home)
    if not inner(score.id):
        raise NotFusable(
            "its scores are an input: they are not computed from queries and keys here"
        )
    wanted = reachable(ir, [softmax.id, *ready], {*chain, *ready})
    roots = [score.id, *softmax.inputs[1:]]
    roots += [j for i in sorted(wanted - {softmax.id}) for j in ir[i].inputs if j not in chain]
    inside = wanted | inner.all(roots)
    order = sorted(inside, key=positions(ir).__getitem__)
    name = unused_name(f"attention over {axis}", used)
    reads = operands(ir, order, {softmax.id: [score.id, *softmax.inputs[1:]]})
    of_one_dtype(ir, [*reads, *ready])
    pattern = Pattern(name, axis, softmax.id, ready, order, reads, score.id, top)
    return pattern, len(ready) < len(found)


def topk_of(ir: IR, softmax: Node) -> tuple[Node, int]:
    """The scores of a softmax, and k if all but the k largest are masked, else 0."""
    score, axis = ir[softmax.inputs[0]], softmax.attrs["axis"]
    if score.op == "where":
        mask, kept, none = ir.operands(score)
        masked = none.op == "const" and none.attrs["value"] == float("-inf")
        of_it = mask.op == "axis_top" and mask.inputs == (kept.id, *softmax.inputs[1:])
        if masked and of_it and mask.attrs["axis"] == axis:
            return kept, mask.attrs["k"]
    return score, 0


def follow(ir: IR, softmax: Node, home: dict[int, int]) -> tuple[set[int], list[int]]:
    """Follow the weights as factors: the nodes between, and the sums they reach."""
    users, made = users_of(ir), pointwise_users(ir, softmax)
    axis, chain = softmax.attrs["axis"], {softmax.id}
    sums: list[int] = []
    stack = [softmax.id]
    while stack:
        i = stack.pop()
        for j in users[i]:
            node = ir[j]
            once = node.inputs.count(i) == 1 and not (set(node.inputs) - {i}) & made
            if node.op == "axis_sum" and node.attrs["axis"] == axis and j not in home:
                sums += [j] * (j not in sums)
            elif node.op in LINEAR and once and j not in home:
                chain.add(j)
                stack.append(j)
    return chain, sorted(sums, key=positions(ir).__getitem__)


def pointwise_users(ir: IR, softmax: Node) -> set[int]:
    """Elementwise functions of the weights; a product with one of these is no plain weighting."""
    users, found, stack = users_of(ir), {softmax.id}, [softmax.id]
    while stack:
        for j in users[stack.pop()]:
            if j not in found and OPS[ir[j].op].family != "axis":
                found.add(j)
                stack.append(j)
    return found


def split_joined(ir: IR) -> IR:
    """Split linear maps of a concatenated query and key into sums of linear maps of each."""
    home = loop_numbers(ir)

    def rule(new: IR, node: Node) -> Expr | None:
        if node.op != "einsum" or node.id in home or node.attrs["contract"]:
            return None
        for side in (0, 1):
            joined = new[node.inputs[side]]
            other = new[node.inputs[1 - side]]
            if joined.op != "cat" or other.axes:
                continue
            left, right, out = split_sub(node.attrs["sub"])
            letter = (left, right)[side][joined.attrs["dim"]]
            differ = all(new[i].axes != joined.axes for i in joined.inputs)
            if differ and letter not in out and letter in (left, right)[1 - side]:
                return split_matmul(new, node, side)
        return None

    return rewrite(ir, rule)
