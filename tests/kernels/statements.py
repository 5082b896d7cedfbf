"""Statements for tests, each from its text."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from graphnn.kernels.ir.expression import Code, Effect, Expr, Name, join
from graphnn.kernels.ir.statement import Statement, assign, do

EFFECTS = {"tl.store": Effect.STORE, "tl.load": Effect.LOAD, "arrive": Effect.ARRIVE}


def statement(text: str) -> Statement:
    """`a, b = f(c)`, with the names of calls, attributes and keywords left out of what it reads.

    A load with `.cg` in its text reads what other blocks have written; `wait` is a barrier's.
    """
    (line,) = ast.parse(text).body
    assert isinstance(line, ast.Assign | ast.Expr)
    found = _expression(text[line.value.col_offset :], line.value)
    effect = EFFECTS.get(found.text.split("(")[0])
    if isinstance(line, ast.Expr):
        return do(found, effect=effect)
    targets = [node.id for node in ast.walk(line.targets[0]) if isinstance(node, ast.Name)]
    if "wait(" in text:
        effect = Effect.WAIT
    return assign([Name(name) for name in targets], found, effect=effect)


def _expression(text: str, value: ast.expr) -> Expr:
    called = {id(node.func) for node in ast.walk(value) if isinstance(node, ast.Call)}
    owners = {id(node.value) for node in ast.walk(value) if isinstance(node, ast.Attribute)}
    names = {
        node.id
        for node in ast.walk(value)
        if isinstance(node, ast.Name)
        and id(node) not in called
        and not (id(node) in owners and node.id == "tl")
    }
    parts: list[Code] = [
        Name(part) if part in names else part for part in re.split(r"(?<![\w.])(\w+)", text)
    ]
    made = join("", parts)
    return Expr(made.parts, made.effect, "tl.load(" in text, ".cg" in text)


def statements(texts: Iterable[str]) -> list[Statement]:
    """One for each text."""
    return [statement(text) for text in texts]


def sizes(of: dict[str, int]) -> dict[Name, int]:
    """Sizes by the names of variables."""
    return {Name(name): size for name, size in of.items()}
