"""Numbers of networks and programs: torch.compile treats what a number stands for as a constant."""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

from graphnn.backends.torch.program import Program
from graphnn.backends.torch_compile import constant
from graphnn.frontend.trace import Trace
from graphnn.planner.loops.choose import Target
from graphnn.planner.pipeline import Variant


class Registered(Protocol):
    """A network, as far as the registry knows it."""

    def refreshed(self) -> Trace:
        """The current trace."""

    def program(self, variant: Variant, number: int | None = None) -> Program:
        """The program of a variant, for the trace of a number."""


_numbers = itertools.count()
_PROGRAMS: dict[int, weakref.ref[Program]] = {}
_NETWORKS: weakref.WeakValueDictionary[int, Registered] = weakref.WeakValueDictionary()


def entered(network: Registered) -> int:
    """Enter a network; returns its number. Entries disappear with their networks."""
    number = next(_numbers)
    _NETWORKS[number] = network
    return number


@constant
def traced(number: int, flags: tuple[object, ...]) -> int:
    """The number of a network's current trace: a constant to torch.compile for equal flags."""
    return _NETWORKS[number].refreshed().number


def program_of(number: int, trace: int, variant: Variant) -> Program:
    """The program of a network and one of its traces, both given by number."""
    # arguments are plain values: torch.compile then takes the place as a constant
    sets = (variant.ragged, variant.resumed, variant.recorded, variant.probed)
    ragged, given, recorded, probed = (tuple(sorted(x)) for x in sets)
    target = variant.target
    chosen = (target.device, target.traced, target.gpu, target.autocast)
    place = _place(number, trace, ragged, given, variant.finals, recorded, probed, chosen)
    return _PROGRAMS[place]()  # type: ignore[return-value]


@constant
def _place(
    number: int,
    trace: int,
    ragged: tuple[str, ...],
    given: tuple[str, ...],
    finals: bool,
    recorded: tuple[str, ...],
    probed: tuple[str, ...],
    chosen: tuple[str, bool, str, str],
) -> int:
    """The key in `_PROGRAMS` of a network's program: a constant to torch.compile."""
    sets = [frozenset(x) for x in (ragged, given, recorded, probed)]
    target = Target(*chosen)
    variant = Variant(sets[0], sets[1], finals, sets[2], sets[3], target)
    program = _NETWORKS[number].program(variant, trace)
    if program.place < 0:
        place = program.place = next(_numbers)
        _PROGRAMS[place] = weakref.ref(program, lambda _: _PROGRAMS.pop(place, None))
    return program.place
