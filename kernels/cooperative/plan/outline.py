"""The outline of a cooperative kernel, before any of it is written: shards, layout and phases.

From it follow, for any tiling, the shared memory that the kernel needs and the predicted time of a
step. So many tilings can be compared, and only the best one is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...analysis.block_axis import heavy, padded_length, wide
from ...analysis.layout import TileLayout
from ...ir.program import LoopProgram, Op, Unsupported
from .exchange import Exchange
from .phases import Phases, phases
from .sharding import MIN_UNITS, ShardedProgram, shard
from .tiling import Tiling, cut


@dataclass(frozen=True)
class Outline:
    """The loop of a `program` as it is sharded: its layout, the values that vary from step to step
    (`moving`), and the events of a step."""

    program: LoopProgram
    sharded: ShardedProgram
    layout: TileLayout
    moving: frozenset[str]
    phases: Phases


@dataclass(frozen=True)
class Demand:
    """What a kernel needs; the fields are those of `CooperativeSource`."""

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
    """The outline of a loop for blocks of `units` units.

    `known` are its granularities, if they have been found before. Raises Unsupported if the loop
    cannot be sharded.
    """
    if not program.axis:
        raise Unsupported("a phase of a step is not a loop")
    sharded = shard(program, units, known)
    moving = frozenset(_moving(sharded.program))
    events = phases(sharded, moving)
    varying = wide(sharded.program) if program.block_axis else ()
    layout = TileLayout(sharded.program, MIN_UNITS, varying)
    return Outline(program, sharded, layout, moving, events)


def demand(found: Outline, tiling: Tiling) -> Demand:
    """What the kernel needs that is cut as `tiling` says."""
    on_chip: dict[str, int] = {}
    staged: tuple[int, ...] = ()
    streamed, products = 0, list(_products(found))
    for op in products:
        made = cut(op, found.layout.spans, tiling)
        staged = max(staged, made.staged(tiling), key=sum)
        weight = op.attrs["weight"].name
        for count in made.weights():
            if tiling.has_room(on_chip, count):
                on_chip[weight] = on_chip.get(weight, 0) + count
            else:
                streamed += count
    sharded, barriers = found.sharded, found.phases.barriers
    count = len(products)
    sizes = (on_chip, staged, streamed, count, positions(found))
    return Demand(sharded.blocks, barriers, sharded.exchanges, tiling, *sizes)


def positions(found: Outline) -> tuple[int, int]:
    """The elements of all positions that a block moves per step, and those that it computes."""
    program = found.sharded.program
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
    """Products by a weight in the order in which they are written, and their weights kept."""
    ops = {op.name: op for op in found.sharded.program.ops if op.kind == "sharded_matmul"}
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
