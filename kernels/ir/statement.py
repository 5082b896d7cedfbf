"""Statements of generated kernels, with what each assigns, reads and does as fields.

Builders create them; liveness, scheduling, dead code elimination and reloading read the fields, and
the printer alone the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .expression import Code, Effect, Expr, Name, expr
from .printer import wrapped
from .symbols import remark


@dataclass(frozen=True, eq=False)
class Statement:
    """One statement: `targets` are the variables that it assigns, `value` what it evaluates.

    `note` names the user's node that it belongs to, for a comment. Two statements that read the
    same are still two: they compare by identity.
    """

    targets: tuple[Name, ...]
    value: Expr
    effect: Effect = Effect.PURE
    note: str = ""

    @property
    def uses(self) -> tuple[Name, ...]:
        """The variables that it reads, in the order of the text."""
        return self.value.names

    @cached_property
    def names(self) -> tuple[Name, ...]:
        """The variables that it assigns, and those that it reads."""
        return tuple(dict.fromkeys((*self.targets, *self.uses)))

    @property
    def loads(self) -> bool:
        """Whether it reads memory, if only as a part of what it computes."""
        return self.value.loads

    @property
    def exchanged(self) -> bool:
        """Whether it reads memory that other thread blocks write in the same launch."""
        return self.value.exchanged

    @cached_property
    def text(self) -> str:
        """The source code."""
        targets = ", ".join(name.text for name in self.targets)
        return f"{targets} = {self.value.text}" if targets else self.value.text

    def renamed(self, new: Mapping[Name, Name]) -> Statement:
        """The statement with other variables in place of some."""
        if new.keys().isdisjoint(self.names):
            return self
        targets = tuple(new.get(name, name) for name in self.targets)
        return replace(self, targets=targets, value=self.value.replaced(new))


def assign(
    target: Name | Sequence[Name], value: Code, note: str = "", effect: Effect | None = None
) -> Statement:
    """A statement that gives one or several variables a value."""
    targets = (target,) if isinstance(target, Name) else tuple(target)
    made = expr(value)
    return Statement(targets, made, effect or made.effect, note)


def do(value: Expr, note: str = "", effect: Effect | None = None) -> Statement:
    """A statement that is evaluated for its effect alone."""
    return Statement((), value, effect or value.effect, note)


def printed(statements: Sequence[Statement], indent: str = "") -> list[str]:
    """The lines of statements, under the names of the user's nodes."""
    found: list[str] = []
    last = ""
    for statement in statements:
        if statement.note and statement.note != last:
            found.append(f"{indent}# {remark(statement.note)}")
            last = statement.note
        found += wrapped(statement.text, indent)
    return found
