"""Generated torch code as data: expressions that know the variables they read, and statements.

Passes over generated code use these fields and never read its text back. The text is printed once,
by `Definition.source`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from graphnn.kernels.ir.symbols import remark

COLUMNS, INDENT = 100, "    "


@dataclass(frozen=True)
class Expression:
    """An expression, or a part of one: its text and the names of the variables in it."""

    text: str
    uses: frozenset[str] = frozenset()

    def __str__(self) -> str:
        raise TypeError("an expression inside a plain string would lose its variables: use code()")


# in place of a variable that nothing reads
UNUSED = Expression("_")


def variable(name: str) -> Expression:
    """The expression that reads a variable."""
    return Expression(name, frozenset({name}))


def code(template: str, *parts: object, **named: object) -> Expression:
    """Fill in a template of `str.format`; parts that are not expressions are inserted as text.

    >>> code("{}.sum({})", variable("x"), 1)
    Expression(text='x.sum(1)', uses=frozenset({'x'}))
    """
    filled = template.format(*map(_text, parts), **{k: _text(v) for k, v in named.items()})
    return Expression(filled, _uses((*parts, *named.values())))


def joined(parts: Iterable[object], between: str = ", ") -> Expression:
    """Expressions one after another."""
    parts = list(parts)
    return Expression(between.join(str(_text(x)) for x in parts), _uses(parts))


def sequence(parts: Sequence[object]) -> Expression:
    """The elements of a Python tuple, with the comma that a single one needs."""
    return code("{},", parts[0]) if len(parts) == 1 else joined(parts)


def _text(part: object) -> object:
    return part.text if isinstance(part, Expression) else part


def _uses(parts: Iterable[object]) -> frozenset[str]:
    return frozenset().union(*(x.uses for x in parts if isinstance(x, Expression)))


class Effect(enum.Enum):
    """The effect of a statement, in addition to assigning its targets."""

    NONE = "none"
    STORE = "writes memory or changes the order of execution"


@dataclass(frozen=True)
class Statement:
    """`targets = value`, or `value` alone; `note` is the comment behind it.

    `unpacks`: the value is a sequence of as many elements as there are targets.
    """

    value: Expression
    targets: tuple[str, ...] = ()
    effect: Effect = Effect.NONE
    note: str = ""
    unpacks: bool = False

    @property
    def uses(self) -> frozenset[str]:
        """The variables that it reads, and those whose memory it writes."""
        return self.value.uses

    def lines(self) -> list[str]:
        """Its source."""
        left = sequence(self.targets).text if self.unpacks else "".join(self.targets)
        text = f"{left} = {self.value.text}" if self.targets else self.value.text
        return [text + (f"  # {self.note}" if self.note else "")]


@dataclass(frozen=True)
class For:
    """A loop over several sequences at once; `sources` are these by the variables of a step."""

    sources: dict[str, Expression]
    body: Sequence[Line]
    effect: Effect = Effect.STORE

    @property
    def targets(self) -> tuple[str, ...]:
        """The variables that each step assigns."""
        return tuple(self.sources)

    @property
    def uses(self) -> frozenset[str]:
        """The variables that its sequences and its body read."""
        return _uses(self.sources.values()) | used(self.body)

    def lines(self) -> list[str]:
        """Its source."""
        names = sequence(list(self.sources)).text
        head = f"for {f'({names})' if len(self.sources) == 1 else names} in zip("
        lists = [f"{INDENT}{source.text}," for source in self.sources.values()]
        return [head, *lists, "):", *indented(self.body)]


@dataclass(frozen=True)
class If:
    """A condition and the statements of its branches."""

    test: Expression
    body: Sequence[Line]
    otherwise: Sequence[Line] = ()
    targets: tuple[str, ...] = ()
    effect: Effect = Effect.STORE

    @property
    def uses(self) -> frozenset[str]:
        """The variables that the condition and the branches read."""
        return self.test.uses | used(self.body) | used(self.otherwise)

    def lines(self) -> list[str]:
        """Its source."""
        last = ["else:", *indented(self.otherwise)] if self.otherwise else []
        return [f"if {self.test.text}:", *indented(self.body), *last]


Line = Statement | For | If


def assign(target: Expression, value: Expression, note: str = "") -> Statement:
    """`target = value`."""
    return Statement(value, (target.text,), note=note)


def unpack(targets: Iterable[Expression], value: Expression) -> Statement:
    """`a, b = value`."""
    return Statement(value, tuple(x.text for x in targets), unpacks=True)


def do(value: Expression, note: str = "") -> Statement:
    """`value`, for its effect."""
    return Statement(value, (), Effect.STORE, note)


def used(body: Iterable[Line]) -> frozenset[str]:
    """The variables that statements read."""
    return frozenset().union(*(line.uses for line in body))


def needed(body: Sequence[Line], returned: Iterable[Expression]) -> list[Line]:
    """The statements without those whose targets nothing reads.

    In a sequence that is unpacked, each variable that nothing reads becomes `_`.
    """
    read = set(_uses(returned))
    kept: list[Line] = []
    for line in reversed(body):
        if line.effect is Effect.STORE or not read.isdisjoint(line.targets):
            if isinstance(line, Statement) and line.unpacks:
                targets = (x if x in read else UNUSED.text for x in line.targets)
                line = replace(line, targets=tuple(targets))
            read |= line.uses
            kept.append(line)
    return kept[::-1]


def indented(body: Iterable[Line]) -> list[str]:
    """The source of statements inside another one."""
    return [INDENT + text for line in body for text in line.lines()]


@dataclass
class Definition:
    """A generated function.

    `title` is its docstring; `header` the comments before it, each a heading and items.
    """

    name: str
    arguments: str
    title: str
    body: Sequence[Line]
    returned: Sequence[Expression]
    header: Sequence[Sequence[str]] = field(default_factory=list)

    def source(self) -> str:
        """Its text."""
        return "\n".join([*self.head(), *indented(self.body), self.last()]) + "\n"

    def head(self) -> list[str]:
        """The lines before its body."""
        comments = [line for items in self.header for line in _comment(items)]
        title = f'{INDENT}"""{remark(self.title)}"""'
        return [*comments, f"def {self.name}({self.arguments}):", title]

    def last(self) -> str:
        """The line that returns the results."""
        return f"{INDENT}return [{joined(self.returned).text}]"


def _comment(items: Sequence[str]) -> list[str]:
    """Items as comments of at most 100 columns; the first one is what all of them are."""
    lines, line = [], f"# {remark(items[0])}"
    for k, item in enumerate(map(remark, items[1:])):
        more = f"{' ' if k == 0 else ', '}{item}"
        if len(line) + len(more) >= COLUMNS:
            lines.append(f"{line},".replace(":,", ":"))
            line = f"#   {item}"
        else:
            line += more
    return [*lines, line]
