"""Slots are enough exactly if no interleaving of two blocks reads a wrong value."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphnn.kernels.analysis.happens_before import Event, faults, slots_needed

ARRIVE = Event("arrive")
# a state that is read before the last arrival of its step, and one that is read after it
STATE = [Event("wait", arrivals=1), Event("load", "h"), Event("store", "h", later=1), ARRIVE]
EARLY = [Event("wait", arrivals=1), Event("store", "h", later=1), ARRIVE, Event("load", "h")]
BEGIN = [Event("store", "h"), ARRIVE]
# a value that is exchanged within a step
WITHIN = [Event("store", "y"), ARRIVE, Event("wait", arrivals=1), Event("load", "y")]


@pytest.mark.parametrize(
    ("before", "step", "slots"),
    [(BEGIN, STATE, 2), (BEGIN, EARLY, 3), ([], WITHIN, 2)],
    ids=["state", "early", "within"],
)
def test_the_fewest_slots(before, step, slots):
    assert slots_needed(before, step) == slots
    assert [*faults(before, step, slots)] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda step: [e for e in step if e.what != "wait"], "no wait for the blocks that store"),
        (lambda step: [e for e in step if e.what != "arrive"], "no wait for the blocks that read"),
        (lambda step: [e for e in step if e.what != "store"], "nothing is stored"),
        (lambda step: [Event("wait", arrivals=2), *step[1:]], "a block has made 1"),
    ],
    ids=["no wait", "no arrival", "no store", "too many arrivals"],
)
def test_a_step_that_is_never_ordered_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        slots_needed(BEGIN, change(STATE))


def test_two_slots_are_too_few_if_a_state_is_read_late():
    ((event, why),) = faults(BEGIN, EARLY, 2)
    assert event is EARLY[3] and "overwritten" in why


EVENTS = st.lists(
    st.one_of(
        st.builds(Event, st.just("store"), st.just("h"), st.integers(0, 1)),
        st.just(Event("load", "h")),
        st.just(ARRIVE),
        st.builds(Event, st.just("wait"), arrivals=st.integers(0, 3)),
    ),
    min_size=1,
    max_size=6,
)


@given(st.booleans(), EVENTS, st.integers(2, 4))
def test_faults_are_found_if_and_only_if_an_interleaving_shows_one(start, step, slots):
    before = BEGIN if start else [ARRIVE]
    stores = [e for e in step if e.what == "store"]
    if len(stores) > 1:  # each value is stored once
        return
    found = [*faults(before, step, slots)]
    assert bool(found) == wrong_somewhere(before, step, slots)


def wrong_somewhere(before: Sequence[Event], step: Sequence[Event], slots: int) -> bool:
    """Whether some interleaving of two blocks is stuck, or reads another value than the step's."""
    steps = 2 * slots + 2
    run = [(e, max(n, 0)) for n, es in enumerate([before, *[step] * steps], -1) for e in es]
    each = sum(e.what == "arrive" for e in step)
    arrived, held = [0], [{}]
    for event, number in run:
        arrived.append(arrived[-1] + (event.what == "arrive"))
        version = number + event.later
        held.append(held[-1] | ({version % slots: version} if event.what == "store" else {}))
    seen, todo = {(0, 0)}, [(0, 0)]
    while todo:
        a, b = todo.pop()
        moved = False
        for first, second in ((a, b), (b, a)):
            if first == len(run):
                continue
            event, number = run[first]
            needed = event.arrivals + number * each if event.what == "wait" else 0
            if min(arrived[first], arrived[second]) < needed:
                continue
            if event.what == "load" and held[second].get(number % slots) != number:
                return True
            moved = True
            after = (first + 1, second)
            after = after if (first, second) == (a, b) else after[::-1]
            if after not in seen:
                seen.add(after)
                todo.append(after)
        if not moved and (a < len(run) or b < len(run)):
            return True
    return False
