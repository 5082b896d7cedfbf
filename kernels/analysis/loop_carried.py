"""Checks what loops of kernels carry: if two variables begin as one value and a loop assigns one to
the other, Triton (3.6 to 3.9) takes them for loop-invariant."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from types import ModuleType

from ..cache import load_module


def loaded(text: str, name: str) -> ModuleType:
    """The module of a kernel's source, from the cache.

    Raises AssertionError if Triton would take a variable of its loops for constant: such a kernel
    is right when interpreted and wrong when compiled, which is a defect of the emitter.
    """
    if wrong := aliased(text):
        raise AssertionError(f"{name}: its compiled loop would take {wrong} for constant")
    return load_module(text, name)


def aliased(text: str) -> list[str]:
    """The variables to which a loop assigns others that began with the same value."""
    functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef))
    return [name for f in functions for name in _of_block(f.body, {})]


def _of_block(body: Iterable[ast.stmt], known: dict[str, str]) -> Iterator[str]:
    for line in body:
        if isinstance(line, ast.For | ast.While):
            held = {f"carried {n}": n for n in _assigned(line.body) if n in known}
            after = known | {n: carried for carried, n in held.items()}
            _follow(line.body, after)
            taken = ((n, held.get(after[n], n)) for n in held.values())
            # a variable that is assigned to itself does stay as it is
            yield from (n for n, other in taken if n != other and known[n] == known[other])
            yield from _of_block(line.body, dict(known))
        _follow([line], known)


def _follow(body: Iterable[ast.stmt], known: dict[str, str]) -> None:
    """Binds each variable to the value of another one, or to a value of its own."""
    for line in body:
        if isinstance(line, ast.For | ast.While | ast.If):
            _follow(line.body, known)
        other = line.value if isinstance(line, ast.Assign) else None
        for name in _targets(line):
            own = f"{name}:{line.lineno}"
            known[name] = known.get(other.id, other.id) if isinstance(other, ast.Name) else own


def _assigned(body: Iterable[ast.stmt]) -> set[str]:
    return {name for line in body for inner in ast.walk(line) for name in _targets(inner)}


def _targets(line: ast.AST) -> list[str]:
    targets = getattr(line, "targets", None) or [getattr(line, "target", None)]
    found = (n for t in targets if isinstance(t, ast.AST) for n in ast.walk(t))
    return [n.id for n in found if isinstance(n, ast.Name)]
