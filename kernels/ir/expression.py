"""Expressions of generated kernels: text in which variables are marked, never guessed from it.

An expression is made from a template and its operands, as in `code("tl.maximum({}, {})", a, b)`. It
knows the variables that it reads, whether it loads from memory and which functions of the prelude
it calls. Passes read these fields; the text is joined once, when a kernel is printed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, lru_cache
from string import Formatter

from .printer import closing


class Effect(Enum):
    """The effect of a statement other than assignment. Scheduling depends on it, not on the text.

    LOAD     reads memory and at most casts the result
    STORE    writes memory
    ARRIVE   counts this thread block as arrived at a barrier
    WAIT     waits for the other blocks at a barrier
    CHECK    turns an expired wait into NaN
    """

    PURE = "pure"
    LOAD = "load"
    STORE = "store"
    ARRIVE = "arrive"
    WAIT = "wait"
    CHECK = "check"

    @property
    def fence(self) -> bool:
        """Whether no statement may move across this one."""
        return self in (Effect.ARRIVE, Effect.WAIT, Effect.CHECK)


@dataclass(frozen=True)
class Name:
    """A variable or an argument of a kernel."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        raise TypeError(f"'{self.text}' would be lost in a string: use code()")


@dataclass(frozen=True)
class Expr:
    """An expression: `parts` are literal text and the variables between it.

    `effect` is LOAD if the whole expression is one load, cast or not; `loads` is whether any
    part of it loads. `exchanged` is true if it reads memory that other thread blocks write in the
    same launch. `calls` are the prelude's functions in it.
    """

    parts: tuple[str | Name, ...] = ()
    effect: Effect = Effect.PURE
    loads: bool = False
    exchanged: bool = False
    calls: frozenset[str] = frozenset()

    @cached_property
    def text(self) -> str:
        """The source code."""
        return "".join(str(part) for part in self.parts)

    @cached_property
    def names(self) -> tuple[Name, ...]:
        """The variables that are read, each once, in the order of the text."""
        return tuple(dict.fromkeys(part for part in self.parts if isinstance(part, Name)))

    def replaced(self, new: Mapping[Name, Code]) -> Expr:
        """The expression with other expressions in place of variables."""
        if new.keys().isdisjoint(self.names):
            return self
        made = join("", [new.get(p, p) if isinstance(p, Name) else p for p in self.parts])
        loads, exchanged = made.loads or self.loads, made.exchanged or self.exchanged
        return Expr(made.parts, self.effect, loads, exchanged, made.calls | self.calls)

    @property
    def is_load(self) -> bool:
        """Whether the whole expression is one load."""
        return self.effect is Effect.LOAD

    def as_load(self) -> Expr:
        """The expression as one that is scheduled as a load."""
        return replace(self, effect=Effect.LOAD)

    def to(self, kind: str) -> Expr:
        """The expression cast to a dtype: a load stays one."""
        return replace(code("{}.to({})", self, kind), effect=self.effect)

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        raise TypeError(f"the variables of '{self.text}' would be lost in a string: use code()")


# the parts of an expression: strings and numbers are literal text
Code = Expr | Name | str | int


def code(template: str, *args: Code, calls: Iterable[str] = ()) -> Expr:
    """An expression: the template with its fields, `{}` or `{0}`, filled in."""
    found: list[Code] = []
    for literal, field in _fields(template):
        found.append(literal)
        if field is not None:
            found.append(args[field])
    made = join("", found)
    return replace(made, calls=made.calls | frozenset(calls)) if calls else made


@lru_cache(4096)
def _fields(template: str) -> tuple[tuple[str, int | None], ...]:
    """A template's literal parts, each with the operand that follows it."""
    count, found = 0, []
    for literal, field, _, _ in Formatter().parse(template):
        place = None if field is None else int(field) if field else count
        count += field == ""
        found.append((literal, place))
    return tuple(found)


@lru_cache(4096)
def functions(template: str) -> frozenset[str]:
    """The functions that the template of an operation calls, methods not counted."""
    operands = 1 + max((field or 0 for _, field in _fields(template)), default=0)
    tree = ast.parse(template.format(*["x"] * operands), mode="eval")
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return frozenset(function.id for function in calls if isinstance(function, ast.Name))


def expr(value: Code) -> Expr:
    """Converts a part of an expression to an expression."""
    if isinstance(value, Expr):
        return value
    part = value if isinstance(value, Name) else str(value)
    return Expr((part,) if part else ())


def join(separator: str, values: Iterable[Code]) -> Expr:
    """Expressions in a row."""
    parts: list[str | Name] = []
    loads = exchanged = False
    calls: frozenset[str] = frozenset()
    for k, value in enumerate(values):
        made = expr(value)
        loads, exchanged, calls = (
            loads or made.loads,
            exchanged or made.exchanged,
            calls | made.calls,
        )
        for part in (separator, *made.parts) if k else made.parts:
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
    return Expr(tuple(parts), Effect.PURE, loads, exchanged, calls)


def call(function: str, *args: Code) -> Expr:
    """A call of one of the prelude's functions."""
    return code("{}({})", function, join(", ", args), calls=(function,))


def total(parts: Iterable[Code]) -> Expr:
    """A sum of addresses; parts that are empty or 0 are left out."""
    kept = [made for made in map(expr, parts) if made.text not in ("", "0")]
    return join(" + ", kept) if kept else expr("0")


def times(*factors: Code) -> Expr:
    """A product of addresses; factors of 1 are left out."""
    kept = [made for made in map(expr, factors) if made.text != "1"]
    if any(made.text == "0" for made in kept):
        return expr("0")
    return join(" * ", kept) if kept else expr("1")


def both(masks: Iterable[Code]) -> Expr:
    """The conjunction of masks; empty without any."""
    return join(" & ", masks)


def bare(value: Expr) -> Expr:
    """An expression without a pair of brackets around all of it."""
    text = value.text
    if not text.startswith("(") or closing(text, 0) != len(text) - 1:
        return value
    first, *rest = value.parts
    if not rest:
        return replace(value, parts=(text[1:-1],))
    *middle, last = rest
    assert isinstance(first, str) and isinstance(last, str)
    parts = (first[1:], *middle, last[:-1])
    return replace(value, parts=tuple(part for part in parts if part))


def load(address: Code, mask: Code = "", other: Code = "0.0", exchanged: bool = False) -> Expr:
    """A load; `other` is the result where the mask is false.

    What other blocks have `exchanged` is read past the cache of this multiprocessor.
    """
    guard = code(", mask={}, other={}", mask, other) if expr(mask).parts else expr("")
    past = ', cache_modifier=".cg"' if exchanged else ""
    made = code("tl.load({}{}{})", address, guard, past)
    return replace(made, effect=Effect.LOAD, loads=True, exchanged=exchanged)


def store(address: Code, value: Code, mask: Code = "") -> Expr:
    """A store."""
    guard = code(", mask={}", mask) if expr(mask).parts else ""
    return replace(code("tl.store({}, {}{})", address, value, guard), effect=Effect.STORE)


def where(mask: Code, value: Code, other: Code) -> Expr:
    """One of two values, by a mask."""
    return code("tl.where({}, {}, {})", mask, value, other)


def broadcast(value: Code, shape: Sequence[Code]) -> Expr:
    """A tile in a shape that it broadcasts to."""
    return code("tl.broadcast_to({}, [{}])", value, join(", ", shape))
