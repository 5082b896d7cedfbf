"""Finds the variables that Triton's frontend would wrongly take for constant in a loop.

Before it compiles a loop, Triton (3.5 to 3.9, `_find_carries` in `compiler/code_generator.py`)
visits the body once with the values that variables have before the loop. A variable is carried from
step to step if it then holds another value than before. `a = b` changes nothing if both began as
one value: `a` keeps that value for ever, although `b` changes. Triton's interpreter is right.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .syntax import Fault, Loop, Source, called, is_unrolled, targets

# the values that a variable may hold, by the place where each was computed
Values = frozenset[str]
# calls that return their first operand itself if its dtype, or its shape, is the wanted one
IDENTITIES = frozenset(("to", "cast", "broadcast_to"))


@dataclass(frozen=True)
class Dropped:
    """A variable that begins a `loop` as the same value as one that is assigned to it."""

    name: str
    other: str
    line: int


def dropped_variables(source: Source) -> Iterator[Fault]:
    """Yield the loops of which Triton would take a variable for constant that is not."""
    for function in source.functions:
        arguments = {name: frozenset((f"argument {name}",)) for name in function.arguments}
        for found in _walk(function.node.body, arguments):
            yield (
                found.line,
                f"'{found.name}' begins as the same value as '{found.other}', which a step assigns "
                "to it: the compiled loop would never change it",
            )


def one_value_in_both_branches(source: Source) -> Iterator[Fault]:
    """Yield the conditions whose branches both assign one value to a variable.

    Triton then sees no difference between the branches (`visit_then_else_blocks`), and the variable
    keeps the value that it had before.
    """
    lines = (line.node for function in source.functions for line in function.lines)
    for condition in (node for node in lines if isinstance(node, ast.If)):
        then, other = dict[str, Values](), dict[str, Values]()
        _follow(condition.body, then)
        _follow(condition.orelse, other)
        for name in then.keys() & other.keys():
            if then[name] & other[name]:
                yield condition.lineno, f"both branches assign one value to '{name}'"


def _walk(body: Iterable[ast.stmt], known: dict[str, Values]) -> Iterator[Dropped]:
    """Find the dropped variables of all loops; `known` are the values before the body."""
    for statement in body:
        if isinstance(statement, Loop) and not is_unrolled(statement):
            yield from _dropped(statement, known)
        for part in ("body", "orelse"):
            yield from _walk(getattr(statement, part, ()), dict(known))
        _follow([statement], known)


def _dropped(loop: Loop, known: dict[str, Values]) -> Iterator[Dropped]:
    """Find the variables that a loop drops, although they do not stay as they are."""
    ends = _ends(loop, known)
    constant = {name for name in known if _sources(ends[name]) is not None}
    while changed := {n for n in constant if not _stays(n, ends, known, constant)}:
        constant -= changed
    for name in sorted(known.keys() - constant):
        for other in sorted(_states(ends[name]) - {name}):
            if known[name] & known[other]:
                yield Dropped(name, other, _line(loop, name))


def _ends(loop: Loop, known: dict[str, Values]) -> dict[str, Values]:
    """The values at the end of a step, whose variables begin as values of their own."""
    after = {name: frozenset((f"state {name}",)) for name in known}
    after.update(dict.fromkeys(targets(loop), frozenset(("loop",))))
    _follow(loop.body, after)
    return after


def _stays(
    name: str, ends: dict[str, Values], known: dict[str, Values], constant: set[str]
) -> bool:
    """Whether a variable is at the end of a step what it was, if all of `constant` are."""
    return all(
        other == name or (other in constant and known[other] == known[name])
        for other in _states(ends[name])
    )


def _sources(values: Values) -> set[str] | None:
    """The variables whose values these are, or None if some are computed in the loop."""
    found = _states(values)
    return found if len(found) == len(values) else None


def _states(values: Values) -> set[str]:
    return {v.removeprefix("state ") for v in values if v.startswith("state ")}


def _line(loop: Loop, name: str) -> int:
    lines = (n for n in ast.walk(loop) if isinstance(n, ast.stmt) and name in targets(n))
    return max((n.lineno for n in lines), default=loop.lineno)


def _follow(body: Iterable[ast.stmt], known: dict[str, Values]) -> None:
    """Update the values of variables by the statements of a body."""
    for statement in body:
        if isinstance(statement, Loop) and not is_unrolled(statement):
            _after_loop(statement, known)
        elif isinstance(statement, ast.If):
            _after_condition(statement, known)
        elif isinstance(statement, ast.For | ast.With):
            _follow(statement.body, known)
        elif isinstance(statement, ast.Assign):
            _assign(statement.targets[0], statement.value, known)
        elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
            known.update(dict.fromkeys(targets(statement), _new(statement)))


def _after_loop(loop: Loop, known: dict[str, Values]) -> None:
    """A variable that a loop changes is a new value behind it."""
    for name, values in _ends(loop, known).items():
        if name in known and values != {f"state {name}"}:
            known[name] = frozenset((f"{name} after line {loop.lineno}",))


def _after_condition(condition: ast.If, known: dict[str, Values]) -> None:
    """A variable is as one of both branches left it, or a new value that selects one."""
    then, other = dict(known), dict(known)
    _follow(condition.body, then)
    _follow(condition.orelse, other)
    for name in then.keys() | other.keys():
        values = then.get(name, frozenset()) | other.get(name, frozenset())
        known[name] = values if then.get(name) == other.get(name) else values | _new(condition)


def _assign(target: ast.expr, value: ast.expr, known: dict[str, Values]) -> None:
    if isinstance(target, ast.Name):
        known[target.id] = _values(value, known)
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        found = [_values(part, known) for part in value.elts]
        for part, values in zip(target.elts, found, strict=True):
            if isinstance(part, ast.Name):
                known[part.id] = values
    elif isinstance(target, ast.Tuple):
        for number, part in enumerate(target.elts):
            if isinstance(part, ast.Name):
                known[part.id] = frozenset((f"{number} of {value.lineno}:{value.col_offset}",))


def _values(value: ast.expr, known: dict[str, Values]) -> Values:
    """The values that an expression may have: those of a variable, or a new one."""
    if isinstance(value, ast.Name):
        return known.get(value.id, frozenset((f"global {value.id}",)))
    if isinstance(value, ast.IfExp):
        return _values(value.body, known) | _values(value.orelse, known) | _new(value)
    if isinstance(value, ast.Call):
        method = value.func.attr if isinstance(value.func, ast.Attribute) else ""
        if method in IDENTITIES:
            alone = called(value).startswith("tl.")
            operand = value.args[0] if alone else value.func.value  # type: ignore[attr-defined]
            return _values(operand, known)
    return _new(value)


def _new(node: ast.expr | ast.stmt) -> Values:
    return frozenset((f"new {node.lineno}:{node.col_offset}",))
