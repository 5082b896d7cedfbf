"""Recipes of random networks: plain data, generated from a seed.

A reference is a number, taken modulo the number of choices. Any recipe is therefore a valid
network, also after shrinking.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.fuzz.along import OVER
from tests.fuzz.code import CODE, MODES, NOISE, SMOOTH
from tests.fuzz.code import SHAPES as SHAPES_CODE
from tests.networks.recipe_repr import short_repr

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
    """A function of graphnn over one of a value's axes."""

    code: str
    a: int = 0
    k: int = 0


@dataclass(frozen=True)
class Lag:
    """A delay of an existing value over one of its axes."""

    a: int = 0
    axis: int = 0
    steps: int = 1
    inits: tuple[str, ...] = ("zero",)


@dataclass(frozen=True)
class Memory:
    """A state: `close` chooses its next value, `inits` one initial value or one per slot."""

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
        """Only fields that differ from the defaults, so that a falsifying example is readable."""
        return short_repr(self)


INITS = ("zero", "number", "whole", "parameter", "row", "tensor", "computed")
OVERS = (("time",), ("time",), ("time", "source"), ("source", "time"), ("source",), ())
ALONGS = ((), (), ("slot",), ("source",), ("time",))
RAGGED = ((), (), ("time",), ("source",), ("time", "source"))
MOST = 11


class Draw(random.Random):
    """A generator of recipes; a seed always gives the same recipe."""

    def number(self) -> int:
        return self.randint(0, MOST)

    def chance(self, one_in: int) -> bool:
        return not self.randrange(one_in)

    def many(self, low: int, high: int, draw: Callable[[], Any]) -> tuple[Any, ...]:
        return tuple(draw() for _ in range(self.randint(low, high)))

    def near(self) -> int:
        """A reference, more often to recent values."""
        return self.number() if self.chance(2) else self.randint(0, 2)

    def kind(self) -> str:
        return self.choice(KINDS) if self.chance(3) else "float"

    def op(self, codes: list[str]) -> Op:
        mode = self.choice(list(MODES)) if self.chance(8) else ""
        return Op(self.choice(codes), self.near(), self.near(), self.number(), mode)

    def block(self, codes: list[str]) -> Block:
        ops = self.many(1, 6, lambda: self.op(codes))
        return Block(self.near(), self.near(), ops, self.randint(0, 3), self.chance(2))

    def inits(self) -> tuple[str, ...]:
        return self.many(1, 3, lambda: self.choice(INITS))

    def step(self, codes: list[str]) -> Any:
        if self.chance(4):
            return Over(self.choice(list(OVER)), self.near(), self.number())
        if self.chance(8):
            steps = self.choice((1, 2, 3, -1, -2, -3))
            return Lag(self.near(), self.number(), steps, self.inits())
        return self.block(codes)

    def memory(self) -> Memory:
        shape, kind, delay = self.choice(SHAPES), self.kind(), self.randint(1, 3)
        return Memory(shape, kind, delay, self.choice(ALONGS), self.inits(), self.near())

    def section(self, codes: list[str], most: int) -> Section:
        states = self.many(1, 2, self.memory) if self.chance(2) else ()
        steps = self.many(1, most, lambda: self.step(codes))
        return Section(self.choice(AXES), self.chance(2), states, steps)

    def recipe(self, most: int, names: bool) -> Recipe:
        noise = self.chance(10)
        codes = [*SMOOTH, *SHAPES_CODE, *NOISE] if noise else [c for c in CODE if c not in NOISE]
        codes += [*("linear", "affine") * 3, *list(NOISE) * 8 * noise]
        first = ("float", self.choice(SHAPES), ("time",))
        more = lambda: (self.kind(), self.choice(SHAPES), self.choice(OVERS))
        return Recipe(
            inputs=(first, *self.many(0, 2, more)),
            sections=self.many(1, 3, lambda: self.section(codes, most)),
            outputs=self.many(1, 3, self.near),
            batch=self.choice((2, 1, 3, 0)),
            sizes=(self.randint(1, 5), self.randint(1, 3)),
            ragged=self.choice(RAGGED),
            given=self.chance(3),
            dtype=self.choice(("float32", "bfloat16")) if self.chance(6) else "float64",
            noise=noise,
            names=self.randrange(4) if names else 0,
        )


def recipe(seed: int, most: int = 5, names: bool = False) -> Recipe:
    """The random recipe of a seed, with at most `most` steps in a section."""
    return Draw(seed).recipe(most, names)
