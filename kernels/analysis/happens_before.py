"""Derives from the events of a step how many slots the exchange buffers of a loop need.

All blocks of a tile run the same events, and each barrier counts arrivals. What a block did before
its n-th arrival happens before what another block does after it has waited for n arrivals of each
block. Steps use slots in turn: of one slot, a load must come after the store that it reads, and
before the next store.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# more slots than any loop needs: a block is at most two barriers ahead of another
MOST_SLOTS = 8


@dataclass(frozen=True)
class Event:
    """`what` a block does: "store" or "load" of an `exchange`, "arrive", or "wait".

    A store or load is of the value of `later` steps ahead. A wait at the first step is for
    `arrivals` of each block, and at each further step for as many more as a step has. `line` is
    where it is in a source.
    """

    what: str
    exchange: str = ""
    later: int = 0
    arrivals: int = 0
    line: int = 0


@dataclass(frozen=True)
class _Access:
    """An access at one step: the value that it is of, the first arrival after it, and the arrivals
    of other blocks that were waited for before it."""

    event: Event
    version: int
    followed_by: float
    waited: int


def slots_needed(before: Sequence[Event], step: Sequence[Event], least: int = 2) -> int:
    """Return the fewest slots, at least `least`, with which no block overwrites what is still read.

    `before` are the events before the loop, `step` those of each step. Raises ValueError if no
    number of slots is enough.
    """
    for slots in range(least, MOST_SLOTS + 1):
        fault = next(faults(before, step, slots), None)
        if fault is None:
            return slots
    assert fault is not None
    raise ValueError(fault[1])


def faults(
    before: Sequence[Event], step: Sequence[Event], slots: int
) -> Iterator[tuple[Event, str]]:
    """Yield each event that is not ordered as it must be with so many slots, and why."""
    yield from _stuck(before, step)
    accesses = list(_unrolled(before, step, steps=2 * slots + 2))
    stores: dict[tuple[str, int], list[_Access]] = {}
    for access in accesses:
        if access.event.what == "store":
            stores.setdefault((access.event.exchange, access.version), []).append(access)
    told: set[Event] = set()
    for load in accesses:
        if load.event.what != "load" or load.event in told:
            continue
        place = load.event.exchange, load.version
        kept = stores.get(place, [])
        following = stores.get((place[0], load.version + slots), [])
        why = ""
        if not kept:
            why = f"'{place[0]}' is read at a step for which nothing is stored"
        elif any(store.followed_by > load.waited for store in kept):
            why = f"'{place[0]}' is read with no wait for the blocks that store it"
        elif any(load.followed_by > store.waited for store in following):
            why = f"'{place[0]}' is overwritten with no wait for the blocks that read it"
        if why:
            told.add(load.event)
            yield load.event, why


def _stuck(before: Sequence[Event], step: Sequence[Event]) -> Iterator[tuple[Event, str]]:
    """Yield each wait for more arrivals than a block makes before it."""
    made = 0
    for event in (*before, *step):
        made += event.what == "arrive"
        if event.what == "wait" and event.arrivals > made:
            yield event, f"{event.arrivals} arrivals are waited for, and a block has made {made}"


def _unrolled(before: Sequence[Event], step: Sequence[Event], steps: int) -> Iterator[_Access]:
    """Yield the accesses of the first steps of a block."""
    each = sum(e.what == "arrive" for e in step)
    made = waited = 0
    for number, events in enumerate((before, *[step] * steps), start=-1):
        for k, event in enumerate(events):
            if event.what == "arrive":
                made += 1
            elif event.what == "wait":
                waited = max(waited, event.arrivals + max(number, 0) * each)
            else:
                more = each or any(e.what == "arrive" for e in events[k:])
                followed_by = made + 1 if more else math.inf
                yield _Access(event, max(number, 0) + event.later, followed_by, waited)
