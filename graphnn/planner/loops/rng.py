"""RNG lowering: noise that only loops or only attention reads is drawn inside them, from a seed.

The generator is counter-based: each element depends on the seed and on its position in the user's
order of axes. It is therefore independent of the plan, and the backward draws the same noise again.
This saves memory, not time: an element costs about 80 instructions (ten rounds of Philox), reading
one from memory only a few. So it is done if a model is compiled with `recompute=True`; otherwise
noise is drawn once, before its loop, and read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from graphnn.ir.graph import IR, Node
from graphnn.planner.attention.tiles import AttentionRegion
from graphnn.planner.core.rewrite import keep, reachable


def seed_loops(
    ir: IR, order: Sequence[str], loops: Sequence[Collection[int]], noise: set[int]
) -> IR:
    """Mark the nodes in `noise` that only the nodes of `loops` read.

    `order` is the user's order of axes.
    """
    inside = set().union(*loops)
    users, outputs = ir.users(), set(ir.outputs.values())
    new = ir.copy()
    for i in noise - outputs:
        if users[i] and inside.issuperset(users[i]):
            node = ir[i]
            axes = tuple(a for a in order if a in node.axes)
            new.nodes[i] = replace(node, attrs={**node.attrs, "places": axes})
    return new


def seed_attention(ir: IR, order: Sequence[str], noise: set[int]) -> IR:
    """Replace dropout masks that only `attend` nodes read by seeds.

    Nothing as large as the attention weights is then stored. `order` is the user's order of axes.
    """
    users, outputs = ir.users(), set(ir.outputs.values())
    new = ir.copy()
    for node in [ir[i] for i in sorted(noise - outputs) if ir[i].attrs["kind"] == "dropout"]:
        forms, readers = _forms(ir, node, users)
        if outputs.isdisjoint(forms) and readers and all(_can_draw(n, forms) for n in readers):
            axes = tuple(a for a in order if a in node.axes)
            new.nodes[node.id] = replace(node, attrs={**node.attrs, "places": axes})
            for reader in readers:
                new.nodes[reader.id] = _reading_seed(new[reader.id], node, forms, axes)
    roots = [*new.outputs.values(), *new.until.values(), *new.closings.values(), *noise]
    return keep(new, reachable(new, [*roots, *(n.id for n in new if n.op in ("input", "delay"))]))


def _forms(ir: IR, node: Node, users: dict[int, list[int]]) -> tuple[list[int], list[Node]]:
    """A node with its reshapes, and the nodes that read any of them."""
    forms, readers = [node.id], dict[int, Node]()
    for i in forms:
        for user in (ir[j] for j in users[i]):
            if user.op == "reshape":
                forms.append(user.id)
            else:
                readers[user.id] = user
    return forms, list(readers.values())


def _can_draw(node: Node, forms: Sequence[int]) -> bool:
    """Whether a node can draw the mask: one element per query and key, and no top-k."""
    if node.op != "attend" or node.attrs["part"].top:
        return False
    part: AttentionRegion = node.attrs["part"]
    reads = [r for r, i in zip(part.reads, node.inputs, strict=True) if i in forms]
    return all(part.ir[r].shape == () for r in reads)


def _reading_seed(reader: Node, node: Node, forms: Sequence[int], axes: tuple[str, ...]) -> Node:
    """An attention that draws the mask of `node` by itself."""
    part: AttentionRegion = reader.attrs["part"]
    ir = part.ir.copy()
    for read, i in zip(part.reads, reader.inputs, strict=True):
        if i in forms:
            along = tuple(a for a in part.parts if a in ir[read].axes)
            law = {k: node.attrs[k] for k in ("kind", "p")}
            attrs = {**ir[read].attrs, **law, "places": (*axes, *along)}
            ir.nodes[read] = replace(ir[read], attrs=attrs)
    inputs = tuple(node.id if i in forms else i for i in reader.inputs)
    return replace(reader, inputs=inputs, attrs={**reader.attrs, "part": replace(part, ir=ir)})
