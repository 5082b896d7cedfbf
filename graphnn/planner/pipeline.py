"""The order of the passes, and the plan they make."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from graphnn.ir.graph import IR
from graphnn.ir.verify import verify
from graphnn.planner.algebra.factor import gather
from graphnn.planner.algebra.hoist import hoist
from graphnn.planner.algebra.horizontal import merge
from graphnn.planner.algebra.multiply_add import contract
from graphnn.planner.algebra.simplify import simplify
from graphnn.planner.algebra.split_linear import split
from graphnn.planner.attention.attend import Note, attend
from graphnn.planner.attention.hops import hops
from graphnn.planner.boundary.complex_as_real import reals
from graphnn.planner.boundary.lengths import mask
from graphnn.planner.boundary.memory_order import arrange
from graphnn.planner.boundary.states import finals, probe, record, resume
from graphnn.planner.core.regions import Region, partition
from graphnn.planner.loops.choose import Decision, Target, choose

# the passes that may be switched off: with and without them a graph means the same
PASSES: dict[str, Callable[[IR], IR]] = {
    "simplify": simplify,
    "split": split,
    "gather": gather,
    "hoist": hoist,
    "merge": merge,
    "contract": contract,
}
BEFORE = ("simplify", "split", "gather", "hoist", "simplify")
AFTER = ("simplify", "merge", "contract")
SWITCHABLE = (
    *(*PASSES, "hops", "attend", "match", "scan", "sink", "beside", "stacked"),
    *("resident", "cooperative", "fit"),
)


@dataclass(frozen=True)
class Variant:
    """What a plan is specialised on: which lengths and states a call gives, and which it wants."""

    ragged: frozenset[str] = frozenset()
    resumed: frozenset[str] = frozenset()
    finals: bool = False
    recorded: frozenset[str] = frozenset()
    probed: frozenset[str] = frozenset()
    target: Target = field(default_factory=Target)


@dataclass
class Plan:
    """A planned graph. `ir` is final, `regions` its parts in order, `order` the user's axes."""

    ir: IR
    regions: list[Region]
    order: list[str]
    passes: frozenset[str]
    seconds: float
    decisions: list[Decision]
    notes: list[Note] = field(default_factory=list)


def plan(ir: IR, variant: Variant, carried: list[int], passes: frozenset[str]) -> Plan:
    """Run the passes. `carried` are the delays whose final values the call may want."""
    start = time.perf_counter()
    order = list(ir.axes)
    ir = requested(ir, variant)
    ir = _step(ir, "states", lambda g: resume(g, variant.resumed))
    if variant.finals:
        ir = _step(ir, "finals", lambda g: finals(g, carried, variant.ragged))
    ir = _step(ir, "mask", lambda g: mask(g, variant.ragged))
    ir = _step(ir, "reals", reals)
    for name in BEFORE:
        if name in passes:
            ir = _step(ir, name, PASSES[name])
    ir, notes = hops(ir) if "hops" in passes else (ir, [])
    verify(ir, "hops")
    ir, more = attend(ir) if "attend" in passes else (ir, [])
    notes = [*notes, *more]
    verify(ir, "attend")
    ir, decisions = choose(ir, variant.target, passes)
    verify(ir, "choose")
    ir = finished(ir, passes)
    return Plan(ir, partition(ir), order, passes, time.perf_counter() - start, decisions, notes)


def finished(ir: IR, passes: frozenset[str]) -> IR:
    """A graph whose loops are chosen, after the passes that are left."""
    for name in AFTER:
        if name in passes:
            ir = _step(ir, name, PASSES[name])
    return _step(ir, "arrange", arrange)


def requested(ir: IR, variant: Variant) -> IR:
    """The graph with what a call asks for besides its outputs: sequences and probes of states."""
    return record(probe(ir, variant.probed), variant.recorded)


def _step(ir: IR, name: str, run: Callable[[IR], IR]) -> IR:
    ir = run(ir)
    verify(ir, name)
    return ir
