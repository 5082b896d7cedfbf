"""The programs of compiled models under numbers, by which torch.compile takes them as constants."""

from __future__ import annotations

import itertools
import weakref
from typing import TYPE_CHECKING

from graphnn.backends.torch.program import Program
from graphnn.backends.torch_compile import constant
from graphnn.planner.loops.choose import Target
from graphnn.planner.pipeline import Variant

if TYPE_CHECKING:
    from graphnn.runtime.model import Compiled

_numbers = itertools.count()
_PROGRAMS: dict[int, weakref.ref[Program]] = {}
_MODELS: weakref.WeakValueDictionary[int, Compiled] = weakref.WeakValueDictionary()


def entered(model: Compiled) -> int:
    """A number of its own for a model."""
    number = next(_numbers)
    _MODELS[number] = model
    return number


@constant
def drawn(number: int, flags: tuple[object, ...]) -> int:
    """The number of the drawing that holds: a constant to torch.compile, as long as its flags."""
    return _MODELS[number]._found().number


def program_of(number: int, mode: int, variant: Variant) -> Program:
    """The program of the model of a number, of one of its drawings."""
    # by plain values: torch.compile then takes the place as a constant
    sets = (variant.ragged, variant.resumed, variant.recorded, variant.probed)
    ragged, given, recorded, probed = (tuple(sorted(x)) for x in sets)
    target = variant.target
    place = _place(
        number, mode, ragged, given, variant.finals, recorded, probed, target.device, target.traced
    )
    return _PROGRAMS[place]()  # type: ignore[return-value]


@constant
def _place(
    number: int,
    mode: int,
    ragged: tuple[str, ...],
    given: tuple[str, ...],
    finals: bool,
    recorded: tuple[str, ...],
    probed: tuple[str, ...],
    device: str,
    traced: bool,
) -> int:
    """The place in `_PROGRAMS` of a model's program: a constant to torch.compile."""
    sets = [frozenset(x) for x in (ragged, given, recorded, probed)]
    target = Target(device, traced)
    model = _MODELS[number]
    program = model._program(Variant(sets[0], sets[1], finals, sets[2], sets[3], target), mode)
    if program.place < 0:
        place = program.place = next(_numbers)
        _PROGRAMS[place] = weakref.ref(program, lambda _: _PROGRAMS.pop(place, None))
    return program.place
