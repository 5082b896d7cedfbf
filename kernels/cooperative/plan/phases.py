"""The phases of a sharded step: what other blocks wait for comes first, the rest while waiting.

A barrier is an arrival, after a block has published, and a wait, before it reads what others have
published. Between the two it does what depends on neither: stores, and loads for the next step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ...analysis import happens_before
from ...analysis.block_axis import MAX_ELEMENTS, wide
from ...ir.program import LoopState, Op
from .exchange import SLOTS, Exchange
from .sharding import ShardedProgram


@dataclass(frozen=True)
class Event:
    """`what` a step does next: "op" or "publish", with the `name` of an operation or exchange; at a
    barrier "arrive" or "wait", with its number."""

    what: str
    name: str = ""
    barrier: int = 0


@dataclass(frozen=True)
class Phases:
    """The events of a step, its number of barriers, and whether states are exchanged (`carries`).

    If they are, the first step waits for their initial values: there is one more arrival, before
    the loop. Exchanges have `slots` slots that steps use in turn.
    """

    events: tuple[Event, ...]
    barriers: int
    carries: bool
    slots: int = SLOTS


def phases(sharded: ShardedProgram, moving: Iterable[str]) -> Phases:
    """The phases of a sharded program; `moving` are the operations that a step computes."""
    return _Schedule(sharded, set(moving)).run()


class _Schedule:
    def __init__(self, sharded: ShardedProgram, moving: set[str]):
        program = sharded.program
        self.varying = wide(program) if program.block_axis else frozenset[str]()
        self.ops = {op.name: op for op in program.ops if op.name in moving}
        self.exchanges = {e.name: e for e in sharded.exchanges}
        self.sources = {
            e.name: _published(e, program.states) if e.state else e.value for e in sharded.exchanges
        }
        self.levels = levels(self.ops, self.exchanges)
        self._delay_reads()
        self._delay_heavy()
        self.events: list[Event] = []
        self.done: set[str] = set()

    def run(self) -> Phases:
        inner = max(self.levels.values(), default=0)
        when = {name: self._level(self.sources[name]) for name in self.exchanges}
        carries = any(e.state for e in self.exchanges.values())
        late = any(
            e.state and when[e.name] >= inner and self._first(e.name) == 0
            for e in self.exchanges.values()
        )
        count = inner + late
        if carries:
            self._reads(0)
            self.events.append(Event("wait", barrier=0))
        for level in range(inner + 1):
            due = [name for name, at in when.items() if at == level]
            self._critical(due, level)
            if due:
                self.events += [Event("publish", name) for name in due]
            if level < count:
                self.events.append(Event("arrive", barrier=level + 1))
            self._rest(level)
            if level < inner:
                self.events.append(Event("wait", barrier=level + 1))
        return Phases(tuple(self.events), count, carries, self._slots(carries))

    def _slots(self, carries: bool) -> int:
        """The fewest slots with which no block overwrites what another still reads."""
        states = [e.name for e in self.exchanges.values() if e.state]
        before = [happens_before.Event("store", name) for name in states]
        before += [happens_before.Event("arrive")] * carries
        step = [made for e in self.events for made in self._accesses(e, carries)]
        return happens_before.slots_needed(before, step, SLOTS)

    def _accesses(self, event: Event, carries: bool) -> Iterator[happens_before.Event]:
        """What an event of a step does to exchanges."""
        if event.what == "op":
            attrs = self.ops[event.name].attrs
            for name in (attrs.get("exchange"), attrs.get("sums")):
                if name in self.exchanges:
                    yield happens_before.Event("load", name)
        elif event.what == "publish":
            later = int(self.exchanges[event.name].state)
            yield happens_before.Event("store", event.name, later)
        else:
            arrivals = event.barrier + carries if event.what == "wait" else 0
            yield happens_before.Event(event.what, arrivals=arrivals)

    def _delay_reads(self) -> None:
        """Delays reads of a state until after the first barrier, if nothing needs it earlier.

        That barrier then also covers the exchange of the state.
        """
        inner = max(self.levels.values(), default=0)
        for op in reversed(self.ops.values()):
            exchange = self.exchanges.get(op.attrs.get("exchange", ""))
            if exchange is None or not exchange.state:
                continue
            if self._level(self.sources[exchange.name]) >= inner:
                users = (self.levels[o.name] for o in self.ops.values() if op.name in o.args)
                self.levels[op.name] = min(users, default=0)

    def _first(self, exchange: str) -> int:
        """The level at which an exchange is first read."""
        reads = [(self.levels[o.name], o.attrs) for o in self.ops.values()]
        mine = [at for at, a in reads if exchange in (a.get("exchange"), a.get("sums"))]
        return min(mine, default=0)

    def _level(self, source: str) -> int:
        return self.levels.get(source, 0)

    def _reads(self, level: int) -> None:
        """Loads depend on nothing: they are under way while a block waits."""
        for op in self.ops.values():
            if self._early(op) and self._needed_at(op.name) == level:
                self._do(op.name)

    def _early(self, op: Op) -> bool:
        """Whether a value is loaded before the phase that needs it."""
        return op.kind == "read" and not self._heavy(op)

    def _heavy(self, op: Op) -> bool:
        """Whether a value has several elements per position, or many of a block's own row.

        All loads for that row count: there may be a hundred of them (the weightings of a Neural
        Turing Machine's heads, backward).
        """
        size, own = math.prod(op.shape), op.attrs.get("own", False)
        many = (op.name in self.varying and size > 1) or (own and op.kind == "read")
        many |= own and op.kind == "fetch_row" and size > MAX_ELEMENTS
        return many and op.kind != "state"

    def _delay_heavy(self) -> None:
        """Delays values that are too large to hold from phase to phase until their first use.

        Views are delayed as well: they only rename tiles.
        """
        published = set(self.sources.values())
        for op in reversed(self.ops.values()):
            users = [self.levels[o.name] for o in self.ops.values() if op.name in o.args]
            shows = bool(self.varying) and op.kind == "view" and op.name not in published
            if (self._heavy(op) or shows) and users:
                self.levels[op.name] = max(self.levels[op.name], min(users))

    def _needed_at(self, name: str) -> int:
        users = [self.levels[o.name] for o in self.ops.values() if name in o.args]
        return min(users, default=0)

    def _critical(self, due: list[str], level: int) -> None:
        """The values that are published at this level, with all that they depend on."""
        for name in due:
            self._with(self.sources[name])

    def _with(self, name: str) -> None:
        if name in self.ops and name not in self.done:
            for arg in self.ops[name].args:
                self._with(arg)
            self._do(name)

    def _rest(self, level: int) -> None:
        """All else of this level; and what the next one reads."""
        for op in self.ops.values():
            at = self._needed_at(op.name) - 1 if self._early(op) else self.levels[op.name]
            if at <= level:
                self._with(op.name)
        if level == max(self.levels.values(), default=0):
            for name in self.ops:
                self._with(name)

    def _do(self, name: str) -> None:
        if name not in self.done:
            self.done.add(name)
            self.events.append(Event("op", name))


def levels(ops: Mapping[str, Op], exchanges: Mapping[str, Exchange]) -> dict[str, int]:
    """The number of barriers in its step after which each operation can be computed."""
    found: dict[str, int] = {}
    for op in ops.values():
        exchange = exchanges.get(op.attrs.get("exchange", ""))
        published = exchange.value if exchange is not None else ""
        at = max((found.get(a, 0) for a in op.args if a != published), default=0)
        if exchange is not None and not exchange.state:
            at = max(at, found.get(published, 0) + 1)
        found[op.name] = at
    return found


def _published(exchange: Exchange, states: Iterable[LoopState]) -> str:
    """The value of a state at the next step: its next value, or with a longer delay a slot."""
    state = next(s for s in states if s.name == exchange.value)
    return state.next if state.delay == 1 else state.name
