"""attend: a softmax over an axis and the sums it weights become one operation, done in tiles.

Scores of queries and keys are then never stored, nor what they are added up from. Looked for
outside loops only: within a step a softmax stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from graphnn.ir.graph import IR, Node
from graphnn.ops.builder import Expr
from graphnn.ops.matmul import split_sub
from graphnn.ops.registry import OPS
from graphnn.planner.algebra.split_linear import split_matmul
from graphnn.planner.attention.insert import named, placed, rewired
from graphnn.planner.attention.region import Inside, independent
from graphnn.planner.attention.single_query import rows
from graphnn.planner.attention.statistics import Source, tallied
from graphnn.planner.attention.tiles import (
    Contraction,
    Pattern,
    Unfit,
    Writer,
    of_one_dtype,
    operands,
)
from graphnn.planner.core.regions import loop_numbers, positions, users_of
from graphnn.planner.core.rewrite import reachable, rewrite

# what a weight may go through on its way to a sum
LINEAR = frozenset({"mul", "reshape", "permute", "expand", "neg"})


NO_SUM = "no sum over '{axis}' of what it weights"


@dataclass(frozen=True)
class Note:
    """What became of one softmax over an axis: its contraction, or why there is none."""

    name: str
    softmax: str
    axis: str
    place: str
    reason: str
    part: Contraction | None = None
    hops: bool = False


def attend(ir: IR) -> tuple[IR, list[Note]]:
    """The graph with `attend` nodes, and a note on each softmax over an axis."""
    if not softmaxes(ir):
        return ir, []
    ir, single = rows(ir)
    ir, notes, sources = weighting(separate(ir))
    for softmax in dict.fromkeys([*(s.softmax for s in sources.values()), *softmaxes(ir)]):
        now = ir.nodes.get(softmax.id, softmax)
        if now.id not in single:
            ir, notes = besides(ir, now, sources.get(now.id), notes)
    labels = {ir[i].label: text for i, text in single.items() if i in ir.nodes}
    return ir, [_single(n, labels) if n.softmax in labels else n for n in notes]


def _single(note: Note, labels: dict[str, str]) -> Note:
    """A note on the weights of one query alone."""
    reader = labels[note.softmax]
    return note if note.part else replace(note, reason=f"for the one query that {reader} reads")


def softmaxes(ir: IR) -> list[Node]:
    """The softmaxes over an axis."""
    return [n for n in ir if n.op == "axis_softmax"]


def weighting(ir: IR) -> tuple[IR, list[Note], dict[int, Source]]:
    """Weighted sums as `attend` nodes; and which of them has a softmax's logsumexp."""
    notes, sources = list[Note](), dict[int, Source]()
    left = [n.id for n in softmaxes(ir)]
    while left:
        new, swap, again = ir.copy(), dict[int, int](), list[int]()
        for node in (ir[i] for i in left if i in ir.nodes):
            try:
                pattern, more = find(ir, node, [n.name for n in notes if n.part])
                writer = Writer(ir, pattern)
                part = writer.write()
            except Unfit as why:
                if not any(n.softmax == node.label and n.part for n in notes):
                    notes.append(_note(node, node.label, str(why)))
                continue
            notes.append(_note(node, part.name, "", part))
            place, mine = placed(new, pattern, part, writer.dims, node.site)
            swap |= mine
            if not _waits(ir, pattern):
                sources.setdefault(node.id, Source(place, part, writer.dims, node))
            again += [node.id] * more
        ir, left = (rewired(new, swap) if swap else ir), again
    return ir, notes, sources


def _waits(ir: IR, pattern: Pattern) -> bool:
    """Whether a pattern reads what is made of its softmax's weights, or of the logsumexp of its
    scores: these cannot be made from its own then."""
    softmax, order, users = ir[pattern.softmax], positions(ir), users_of(ir)
    alike = [j for j in users[softmax.inputs[0]] if ir[j].inputs == softmax.inputs]
    made = {softmax.id, *(j for j in alike if ir[j].op == "axis_logsumexp")}
    first = min(order[i] for i in made)
    seen, stack = set[int](), [*pattern.reads]
    while stack:
        i = stack.pop()
        if i in made:
            return True
        if i not in seen and order[i] > first:  # what comes before them is made of neither
            seen.add(i)
            stack += ir[i].inputs
    return False


def besides(
    ir: IR, softmax: Node, source: Source | None, notes: list[Note]
) -> tuple[IR, list[Note]]:
    """What else reads a softmax's weights and scores, in tiles where none needs them whole."""
    used = [n.name for n in notes if n.part]
    mine = next((n for n in notes if n.softmax == softmax.label), None)
    if mine is None or not (mine.part or mine.reason == NO_SUM.format(axis=mine.axis)):
        return ir, notes
    try:
        new = ir
        if source is None:
            new, source = alone(ir, softmax, used)
        made = tallied(new, softmax, source, used)
    except Unfit as why:
        what = "weights" if softmax.id in ir.nodes else "scores"
        how = f"the {what} are stored besides" if mine.part else "its weights are stored"
        reason = str(why) if str(why).startswith("for ") else f"as {why}"
        return ir, _said(notes, mine, f"{how}, {reason}")
    if made is None:
        return ir, notes
    names = ", ".join(made.reads)
    if mine.part is None:
        part = source.part
        notes = [
            replace(n, name=part.name, reason="", part=part) if n is mine else n for n in notes
        ]
        mine = next(n for n in notes if n.part is part)
    notes = _said(notes, mine, f"read besides by {names}: weights are made anew, in tiles")
    return made.ir, notes + [_note(softmax, p.name, "", p) for p in made.parts]


def _said(notes: list[Note], note: Note, text: str) -> list[Note]:
    said = (text, note.reason) if note.part else (note.reason, text)
    more = replace(note, reason="; ".join(t for t in said if t))
    return [more if n is note else n for n in notes]


def alone(ir: IR, softmax: Node, used: Sequence[str]) -> tuple[IR, Source]:
    """The graph with a softmax's logsumexp, where it weights no sum. Raises Unfit."""
    pattern, _ = find(ir, softmax, used, sums=False)
    writer, new = Writer(ir, pattern), ir.copy()
    part = writer.write()
    place, _ = placed(new, pattern, part, writer.dims, softmax.site)
    return new, Source(place, part, writer.dims, softmax)


def _note(node: Node, name: str, reason: str, part: Contraction | None = None) -> Note:
    return Note(name, node.label, node.attrs["axis"], str(node.site or ""), reason, part)


def find(
    ir: IR, softmax: Node, used: Sequence[str] = (), sums: bool = True
) -> tuple[Pattern, bool]:
    """The pattern around a softmax, with its sums or without any, and whether sums are left that
    wait for others. Raises Unfit, in words for users."""
    axis, home = softmax.attrs["axis"], loop_numbers(ir)
    if softmax.id in home:
        raise Unfit("it is taken at each step of a loop")
    if softmax.dtype != ir.floating:
        raise Unfit(f"its scores are {softmax.dtype} in a graph of {ir.floating}")
    score, top = best(ir, softmax)
    if score.axes == {axis}:
        raise Unfit("its scores vary over nothing but the axis: there are no queries")
    chain, found = follow(ir, softmax, home)
    if sums and not found:
        raise Unfit(NO_SUM.format(axis=axis))
    ready = independent(ir, found) if sums else []
    inner = Inside(ir, axis, home)
    if not inner(score.id):
        raise Unfit("its scores are given whole: they are not computed from queries and keys here")
    wanted = reachable(ir, [softmax.id, *ready], {*chain, *ready})
    roots = [score.id, *softmax.inputs[1:]]
    roots += [j for i in sorted(wanted - {softmax.id}) for j in ir[i].inputs if j not in chain]
    inside = wanted | inner.all(roots)
    order = sorted(inside, key=positions(ir).__getitem__)
    name = named(f"attention over {axis}", used)
    reads = operands(ir, order, {softmax.id: [score.id, *softmax.inputs[1:]]})
    of_one_dtype(ir, [*reads, *ready])
    pattern = Pattern(name, axis, softmax.id, ready, order, reads, score.id, top)
    return pattern, len(ready) < len(found)


def best(ir: IR, softmax: Node) -> tuple[Node, int]:
    """What softmax takes; and how many of the best of it, where all others are masked."""
    score, axis = ir[softmax.inputs[0]], softmax.attrs["axis"]
    if score.op == "where":
        mask, kept, none = ir.operands(score)
        masked = none.op == "const" and none.attrs["value"] == float("-inf")
        of_it = mask.op == "axis_top" and mask.inputs == (kept.id, *softmax.inputs[1:])
        if masked and of_it and mask.attrs["axis"] == axis:
            return kept, mask.attrs["k"]
    return score, 0


def follow(ir: IR, softmax: Node, home: dict[int, int]) -> tuple[set[int], list[int]]:
    """Where the weights go as factors: through what, and into which sums."""
    users, made = users_of(ir), multiplied(ir, softmax)
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


def multiplied(ir: IR, softmax: Node) -> set[int]:
    """What is made of the weights one by one: they are no factors where it is another."""
    users, found, stack = users_of(ir), {softmax.id}, [softmax.id]
    while stack:
        for j in users[stack.pop()]:
            if j not in found and OPS[ir[j].op].family != "axis":
                found.add(j)
                stack.append(j)
    return found


def separate(ir: IR) -> IR:
    """Linear maps of a query and a key put together become sums of linear maps of each."""
    home = loop_numbers(ir)

    def rule(new: IR, node: Node) -> Expr | None:
        if node.op != "product" or node.id in home or node.attrs["contract"]:
            return None
        for side in (0, 1):
            joined = new[node.inputs[side]]
            other = new[node.inputs[1 - side]]
            if joined.op != "cat" or other.axes:
                continue
            left, right, out = split_sub(node.attrs["sub"])
            letter = (left, right)[side][joined.attrs["dim"]]
            apart = all(new[i].axes != joined.axes for i in joined.inputs)
            if apart and letter not in out and letter in (left, right)[1 - side]:
                return split_matmul(new, node, side)
        return None

    return rewrite(ir, rule)
