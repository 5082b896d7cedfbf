"""What a cooperative kernel will be, before a line of it is written: who has what, and when.

The shared memory that it takes, and the time that a step should, follow from that for any tiling:
of many that are weighed only what is chosen is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...analysis.block_axis import heavy, padded_length, wide
from ...analysis.layout import Layout
from ...ir.program import LoopProgram, Op, Unsupported
from .exchange import Exchange
from .phases import Phases, phases
from .sharding import LEAST, ShardedProgram, shard
from .tiling import Tiling, cut


@dataclass(frozen=True)
class Outline:
    """The loop of a `program` as its blocks share it: where numbers lie, what is `moving` from step
    to step, and the events of a step."""

    program: LoopProgram
    shared: ShardedProgram
    layout: Layout
    moving: frozenset[str]
    phases: Phases


@dataclass(frozen=True)
class Resources:
    """What a kernel takes, as `Cooperative` says it of one that is written."""

    blocks: int
    barriers: int
    exchanges: tuple[Exchange, ...]
    tiling: Tiling
    weights: dict[str, int]
    staged: tuple[int, ...]
    streamed: int
    products: int
    positions: tuple[int, int] = (0, 0)


def outline(program: LoopProgram, units: int, known: dict[str, int] | None = None) -> Outline:
    """The loop for blocks of so many units. Raises Unsupported where it cannot be shared.

    `known` are its periods, where they have been found before.
    """
    if not program.axis:
        raise Unsupported("a phase of a step is no loop")
    shared = shard(program, units, known)
    moving = frozenset(_moving(shared.program))
    events = phases(shared, moving)
    varying = wide(shared.program) if program.block_axis else ()
    layout = Layout(shared.program, LEAST, varying)
    return Outline(program, shared, layout, moving, events)


def resources(found: Outline, tiling: Tiling) -> Resources:
    """What the kernel takes that is cut as `tiling` says."""
    held: dict[str, int] = {}
    staged: tuple[int, ...] = ()
    streamed, products = 0, list(_products(found))
    for op in products:
        made = cut(op, found.layout.spans, tiling)
        staged = max(staged, made.staged(tiling), key=sum)
        weight = op.attrs["weight"].name
        for count in made.weights():
            if tiling.keeps(held, count):
                held[weight] = held.get(weight, 0) + count
            else:
                streamed += count
    shared, barriers = found.shared, found.phases.barriers
    count = len(products)
    sizes = (held, staged, streamed, count, positions(found))
    return Resources(shared.blocks, barriers, shared.exchanges, tiling, *sizes)


def positions(found: Outline) -> tuple[int, int]:
    """Numbers of all lanes that a block loads and stores at a step, and those that it makes."""
    program = found.shared.program
    if not program.block_axis:
        return 0, 0
    varying, many = wide(program), program.most
    moved = sum(
        many * math.prod(op.shape)
        for op in program.ops
        if op.kind == "read" and op.name in varying and op.name in found.moving
    )
    ops = {op.name: op for op in program.ops}
    stored = (ops[name] for name, tensor in program.stores if program.block_axis in tensor.axes)
    moved += sum(many * math.prod(op.shape) for op in stored)
    made = (op for op in program.ops if op.name in varying and op.kind not in ("read", "view"))
    return moved, sum(padded_length(many) * math.prod(op.shape) for op in made)


def _products(found: Outline) -> Iterator[Op]:
    """Products by a weight in the order in which they are written: weights are kept by it."""
    ops = {op.name: op for op in found.shared.program.ops if op.kind == "sharded_matmul"}
    yield from (op for op in ops.values() if op.name not in found.moving)
    for event in found.phases.events:
        if event.what == "op" and event.name in ops:
            yield ops[event.name]


def _moving(program: LoopProgram) -> set[str]:
    """The operations that a step computes."""
    found: set[str] = set()
    for op in program.ops:
        tensors = [op.attrs.get("tensor"), op.attrs.get("source")]
        along = any(t is not None and program.axis in t.axes for t in tensors)
        along |= op.kind == "read" and heavy(program, op)
        mine = op.kind in ("index", "state") or any(a in found for a in op.args)
        if along or mine:
            found.add(op.name)
    return found
