"""Expressions of generated kernels: text in which variables are marked, never guessed from it.

An expression is made from a template and its operands, as in `code("tl.maximum({}, {})", a, b)`. It
knows the variables that it reads, whether it loads from memory and which functions of the prelude
it calls. Passes read these fields; the text is joined once, when a kernel is printed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
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


class Expr:
    """An expression: `parts` are literal text and the variables between it. It is immutable.

    `effect` is LOAD if the whole expression is one load, cast or not; `loads` is whether any
    part of it loads. `exchanged` is true if it reads memory that other thread blocks write in the
    same launch. `calls` are the prelude's functions in it.
    """

    # a kernel is made of tens of thousands: a dataclass takes twice as long to make
    __slots__ = ("_names", "_text", "calls", "effect", "exchanged", "loads", "parts")

    def __init__(
        self,
        parts: tuple[str | Name, ...] = (),
        effect: Effect = Effect.PURE,
        loads: bool = False,
        exchanged: bool = False,
        calls: frozenset[str] = frozenset(),
    ):
        self.parts, self.effect = parts, effect
        self.loads, self.exchanged, self.calls = loads, exchanged, calls
        self._text: str | None = None
        self._names: tuple[Name, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[object, ...]:
        return self.parts, self.effect, self.loads, self.exchanged, self.calls

    @property
    def text(self) -> str:
        """The source code."""
        if self._text is None:
            self._text = "".join(p if isinstance(p, str) else p.text for p in self.parts)
        return self._text

    @property
    def names(self) -> tuple[Name, ...]:
        """The variables that are read, each once, in the order of the text."""
        if self._names is None:
            self._names = tuple(dict.fromkeys(p for p in self.parts if isinstance(p, Name)))
        return self._names

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
        return Expr(self.parts, Effect.LOAD, self.loads, self.exchanged, self.calls)

    def to(self, kind: str) -> Expr:
        """The expression cast to a dtype: a load stays one."""
        made = code("{}.to({})", self, kind)
        return Expr(made.parts, self.effect, made.loads, made.exchanged, made.calls)

    def __str__(self) -> str:
        return self.text

    def __format__(self, spec: str) -> str:
        raise TypeError(f"the variables of '{self.text}' would be lost in a string: use code()")


# the parts of an expression: strings and numbers are literal text
Code = Expr | Name | str | int
NO_CALLS: frozenset[str] = frozenset()


def code(template: str, *args: Code, calls: Iterable[str] = ()) -> Expr:
    """An expression: the template with its fields, `{}` or `{0}`, filled in."""
    found: list[Code] = []
    for literal, field in _fields(template):
        if literal:
            found.append(literal)
        if field is not None:
            found.append(args[field])
    made = join("", found)
    if not calls:
        return made
    both = made.calls | frozenset(calls)
    return Expr(made.parts, made.effect, made.loads, made.exchanged, both)


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
    text = ""  # literal text that is not in `parts` yet
    loads = exchanged = False
    calls = NO_CALLS
    for k, value in enumerate(values):
        text += separator if k else ""
        if isinstance(value, Expr):
            loads, exchanged = loads or value.loads, exchanged or value.exchanged
            calls = calls | value.calls if value.calls else calls
            added: Iterable[str | Name] = value.parts
        else:
            added = (value if isinstance(value, Name) else str(value),)
        for part in added:
            if isinstance(part, str):
                text += part
                continue
            if text:
                parts.append(text)
                text = ""
            parts.append(part)
    if text:
        parts.append(text)
    return Expr(tuple(parts), Effect.PURE, loads, exchanged, calls)


def call(function: str, *args: Code) -> Expr:
    """A call of one of the prelude's functions."""
    return code("{}({})", function, join(", ", args), calls=(function,))


def _literal(value: Code) -> str | None:
    """The text of an expression without variables, else None."""
    if isinstance(value, Expr):
        if len(value.parts) > 1:
            return None
        value = value.parts[0] if value.parts else ""
    return None if isinstance(value, Name) else str(value)


def total(parts: Iterable[Code]) -> Expr:
    """A sum of addresses; parts that are empty or 0 are left out."""
    kept = [part for part in parts if _literal(part) not in ("", "0")]
    return join(" + ", kept) if kept else expr("0")


def times(*factors: Code) -> Expr:
    """A product of addresses; factors of 1 are left out."""
    kept = [factor for factor in factors if _literal(factor) != "1"]
    if any(_literal(factor) == "0" for factor in kept):
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
        return _with_parts(value, (text[1:-1],))
    *middle, last = rest
    assert isinstance(first, str) and isinstance(last, str)
    parts = (first[1:], *middle, last[:-1])
    return _with_parts(value, tuple(part for part in parts if part))


def _with_parts(value: Expr, parts: tuple[str | Name, ...]) -> Expr:
    return Expr(parts, value.effect, value.loads, value.exchanged, value.calls)


def load(address: Code, mask: Code = "", other: Code = "0.0", exchanged: bool = False) -> Expr:
    """A load; `other` is the result where the mask is false.

    What other blocks have `exchanged` is read past the cache of this multiprocessor.
    """
    guard = code(", mask={}, other={}", mask, other) if expr(mask).parts else ""
    past = ', cache_modifier=".cg"' if exchanged else ""
    made = code("tl.load({}{}{})", address, guard, past)
    return Expr(made.parts, Effect.LOAD, True, exchanged, made.calls)


def store(address: Code, value: Code, mask: Code = "") -> Expr:
    """A store."""
    guard = code(", mask={}", mask) if expr(mask).parts else ""
    made = code("tl.store({}, {}{})", address, value, guard)
    return Expr(made.parts, Effect.STORE, made.loads, made.exchanged, made.calls)


def where(mask: Code, value: Code, other: Code) -> Expr:
    """One of two values, by a mask."""
    return code("tl.where({}, {}, {})", mask, value, other)


def broadcast(value: Code, shape: Sequence[Code]) -> Expr:
    """A tile in a shape that it broadcasts to."""
    return code("tl.broadcast_to({}, [{}])", value, join(", ", shape))
