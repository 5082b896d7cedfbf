"""Recipes of random networks: plain data that hypothesis draws and shrinks.

Every reference is a number taken modulo how many choices there are, so that any recipe is a
network and shrinking keeps it one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.along import OVER
from tests.fuzz.code import CODE, MODES, NOISE

AXES = ("time", "source", "slot")
SLOTS = 3
SHAPES = ((), (1,), (2,), (3,), (4,), (0,), (2, 2), (1, 3))
KINDS = ("float", "int", "bool")


@dataclass(frozen=True)
class Op:
    """A line of torch code on two of a block's tensors, in a grad mode."""

    code: str
    a: int = 0
    b: int = 0
    k: int = 0
    mode: str = ""


@dataclass(frozen=True)
class Block:
    """Torch code that starts from two values; `out` chooses which of its tensors is the result."""

    a: int = 0
    b: int = 0
    ops: tuple[Op, ...] = ()
    out: int = 0
    tame: bool = True


@dataclass(frozen=True)
class Over:
    """A function of the vocabulary over one of a value's axes."""

    code: str
    a: int = 0
    k: int = 0


@dataclass(frozen=True)
class Lag:
    """A delay of a value that is there, over one of its axes."""

    a: int = 0
    axis: int = 0
    steps: int = 1
    inits: tuple[str, ...] = ("zero",)


@dataclass(frozen=True)
class Memory:
    """A state: `close` chooses its next value, `inits` are one for all slots or one each."""

    shape: tuple[int, ...] = (1,)
    kind: str = "float"
    delay: int = 1
    along: tuple[str, ...] = ()
    inits: tuple[str, ...] = ("zero",)
    close: int = 0


@dataclass(frozen=True)
class Section:
    """Steps in order; with states they are a loop over `axis` (`ahead`: from its end)."""

    axis: str = "time"
    ahead: bool = False
    states: tuple[Memory, ...] = ()
    steps: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A network, and the sizes it is called with. `inputs` are (kind, shape, axes)."""

    inputs: tuple[tuple[str, tuple[int, ...], tuple[str, ...]], ...] = (("float", (1,), ("time",)),)
    sections: tuple[Section, ...] = ()
    outputs: tuple[int, ...] = (0,)
    batch: int = 2
    sizes: tuple[int, int] = (3, 2)
    ragged: tuple[str, ...] = ()
    given: bool = False
    dtype: str = "float64"
    noise: bool = False
    names: int = 0

    def __repr__(self) -> str:
        """Only what differs from the defaults, so that a falsifying example can be read."""
        return _short(self)


def _short(thing: Any) -> str:
    if isinstance(thing, tuple):
        return "(" + ", ".join(map(_short, thing)) + ("," if len(thing) == 1 else "") + ")"
    if not isinstance(thing, (Op, Block, Over, Lag, Memory, Section, Recipe)):
        return repr(thing)
    given = [
        f"{f.name}={_short(getattr(thing, f.name))}"
        for f in fields(thing)
        if getattr(thing, f.name) != f.default
    ]
    return f"{type(thing).__name__}({', '.join(given)})"


INITS = ("zero", "number", "whole", "parameter", "row", "tensor", "computed")
OVERS = (("time",), ("time",), ("time", "source"), ("source", "time"), ("source",), ())

_numbers = st.integers(0, 11)


def _tuples(items: st.SearchStrategy[Any], low: int, high: int) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=low, max_size=high).map(tuple)


_modes = st.sampled_from([""] * 12 + list(MODES))
_codes = st.sampled_from([name for name in CODE if name not in NOISE] + ["linear", "affine"] * 3)
_shapes = st.sampled_from(SHAPES)
_kinds = st.sampled_from(("float", "float", "float", "float", "int", "bool"))


def _blocks(codes: st.SearchStrategy[str], most: int) -> st.SearchStrategy[Block]:
    ops = _tuples(st.builds(Op, codes, _numbers, _numbers, _numbers, _modes), 1, most)
    return st.builds(Block, _numbers, _numbers, ops, st.integers(0, 3), st.booleans())


_overs = st.builds(Over, st.sampled_from(list(OVER)), _numbers, _numbers)
_lags = st.builds(
    Lag,
    _numbers,
    _numbers,
    st.sampled_from([1, 2, 3, -1, -2, -3]),
    _tuples(st.sampled_from(INITS), 1, 3),
)
_memories = st.builds(
    Memory,
    _shapes,
    _kinds,
    st.integers(1, 3),
    st.sampled_from([(), (), ("slot",), ("source",), ("time",)]),
    _tuples(st.sampled_from(INITS), 1, 3),
    _numbers,
)


@st.composite
def recipes(draw: st.DrawFn, most: int = 5, names: bool = False) -> Recipe:
    """Recipes with one float input over time, others, and one to three sections."""
    noise = draw(st.sampled_from([False] * 7 + [True]))
    codes = st.one_of(_codes, st.sampled_from(list(NOISE))) if noise else _codes
    steps = st.one_of(_blocks(codes, 6), _blocks(codes, 6), _blocks(codes, 6), _overs, _lags)

    def section(states: int) -> st.SearchStrategy[Section]:
        return st.builds(
            Section,
            st.sampled_from(AXES),
            st.booleans(),
            _tuples(_memories, states, 2 * states),
            _tuples(steps, 0, most),
        )

    sections = draw(st.lists(section(1), min_size=1, max_size=2))
    sections += draw(st.lists(section(0), max_size=1))
    more = st.tuples(_kinds, _shapes, st.sampled_from(OVERS))
    return Recipe(
        inputs=(("float", draw(_shapes), ("time",)), *draw(st.lists(more, max_size=2))),
        sections=tuple(draw(st.permutations(sections))),
        outputs=draw(_tuples(_numbers, 1, 3)),
        batch=draw(st.sampled_from([2, 1, 3, 0])),
        sizes=(draw(st.integers(1, 5)), draw(st.integers(1, 3))),
        ragged=draw(st.sampled_from([(), (), ("time",), ("source",), ("time", "source")])),
        given=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float64"] * 8 + ["float32", "bfloat16"])),
        noise=noise,
        names=draw(st.integers(0, 3)) if names else 0,
    )
