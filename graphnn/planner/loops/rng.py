"""seed: noise that only loops read, or only attention, is given to them as a seed, and drawn there.

Its numbers are by counter: each by the seed and its place, in the user's order of axes, so that the
plan has no part in them, and the backward draws the forward's again. That saves memory, not time: a
number takes about 80 instructions (ten rounds of Philox), one read from memory a few. So it is done
where a model is compiled to recompute; else noise is drawn once, before its loop, and read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from graphnn.ir.graph import IR, Node
from graphnn.planner.attention.tiles import Contraction
from graphnn.planner.core.rewrite import keep, reachable


def seed(ir: IR, order: Sequence[str], loops: Sequence[Collection[int]], noise: set[int]) -> IR:
    """Mark those of the nodes `noise` that nothing reads but `loops`; `order` is the user's."""
    inside = set().union(*loops)
    users, outputs = ir.users(), set(ir.outputs.values())
    new = ir.copy()
    for i in noise - outputs:
        if users[i] and inside.issuperset(users[i]):
            node = ir[i]
            axes = tuple(a for a in order if a in node.axes)
            new.nodes[i] = replace(node, attrs={**node.attrs, "places": axes})
    return new


def seed_tiles(ir: IR, order: Sequence[str], noise: set[int]) -> IR:
    """Give dropout that only `attend` nodes read to these as a seed; nothing as large as what it
    drops is then stored."""
    users, outputs = ir.users(), set(ir.outputs.values())
    new = ir.copy()
    for node in [ir[i] for i in sorted(noise - outputs) if ir[i].attrs["kind"] == "dropout"]:
        forms, readers = _forms(ir, node, users)
        if outputs.isdisjoint(forms) and readers and all(_draws(n, forms) for n in readers):
            axes = tuple(a for a in order if a in node.axes)
            new.nodes[node.id] = replace(node, attrs={**node.attrs, "places": axes})
            for reader in readers:
                new.nodes[reader.id] = _given_seed(new[reader.id], node, forms, axes)
    roots = [*new.outputs.values(), *new.until.values(), *new.closings.values(), *noise]
    return keep(new, reachable(new, [*roots, *(n.id for n in new if n.op in ("input", "delay"))]))


def _forms(ir: IR, node: Node, users: dict[int, list[int]]) -> tuple[list[int], list[Node]]:
    """A node and its reshapes, and all that reads these."""
    forms, readers = [node.id], dict[int, Node]()
    for i in forms:
        for user in (ir[j] for j in users[i]):
            if user.op == "reshape":
                forms.append(user.id)
            else:
                readers[user.id] = user
    return forms, list(readers.values())


def _draws(node: Node, forms: Sequence[int]) -> bool:
    """Whether a reader can draw: of a number for each query and key, the best k left aside."""
    if node.op != "attend" or node.attrs["part"].top:
        return False
    part: Contraction = node.attrs["part"]
    reads = [r for r, i in zip(part.reads, node.inputs, strict=True) if i in forms]
    return all(part.ir[r].shape == () for r in reads)


def _given_seed(reader: Node, node: Node, forms: Sequence[int], axes: tuple[str, ...]) -> Node:
    part: Contraction = reader.attrs["part"]
    ir = part.ir.copy()
    for read, i in zip(part.reads, reader.inputs, strict=True):
        if i in forms:
            own = tuple(a for a in part.parts if a in ir[read].axes)
            law = {k: node.attrs[k] for k in ("kind", "p")}
            attrs = {**ir[read].attrs, **law, "places": (*axes, *own)}
            ir.nodes[read] = replace(ir[read], attrs=attrs)
    inputs = tuple(node.id if i in forms else i for i in reader.inputs)
    return replace(reader, inputs=inputs, attrs={**reader.attrs, "part": replace(part, ir=ir)})
