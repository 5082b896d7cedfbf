"""seed: noise that only loops read is given to them as a seed, and drawn in their kernels.

Its numbers are by counter: each by the seed and its place, in the user's order of axes, so that the
plan has no part in them, and the backward draws the forward's again. That saves memory, not time: a
number takes about 80 instructions (ten rounds of Philox), one read from memory a few. So it is done
where a model is compiled to recompute; else noise is drawn once, before its loop, and read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from graphnn.ir import IR


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
