"""The syntax of a kernel's source, read once: its statements in order, and what each one does."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

# a line that breaks a rule, and what is wrong with it
Fault = tuple[int, str]
Loop = ast.For | ast.While


@dataclass(frozen=True, eq=False)
class Line:
    """A statement without those inside it: the variables that it writes and reads, its calls by
    name, and the loops around it, the outermost first."""

    node: ast.stmt
    writes: tuple[str, ...]
    reads: frozenset[str]
    calls: tuple[tuple[str, ast.Call], ...]
    loops: tuple[Loop, ...]

    def called(self, *names: str) -> list[ast.Call]:
        """Return its calls of functions of these names."""
        return [call for name, call in self.calls if name in names]


@dataclass(frozen=True, eq=False)
class Function:
    """A jitted function and its lines in order."""

    node: ast.FunctionDef
    lines: tuple[Line, ...]

    @cached_property
    def arguments(self) -> list[str]:
        """The names of the arguments."""
        return [a.arg for a in self.node.args.args]

    @cached_property
    def constants(self) -> set[str]:
        """The arguments that are constants of the compiler."""
        return {a.arg for a in self.node.args.args if a.annotation is not None}

    @cached_property
    def stores(self) -> dict[str, list[ast.Call]]:
        """The stores to each pointer."""
        return self._accesses("tl.store")

    @cached_property
    def loads(self) -> dict[str, list[ast.Call]]:
        """The loads from each pointer."""
        return self._accesses("tl.load")

    def _accesses(self, name: str) -> dict[str, list[ast.Call]]:
        found: dict[str, list[ast.Call]] = {}
        for line in self.lines:
            for call in line.called(name):
                found.setdefault(pointer(call.args[0]), []).append(call)
        return found

    @cached_property
    def loops(self) -> list[Loop]:
        """The loops of the function that are loops when compiled, too."""
        return [x.node for x in self.lines if isinstance(x.node, Loop) and not is_unrolled(x.node)]

    def inside(self, loop: Loop) -> list[Line]:
        """Return the lines of a loop."""
        return [line for line in self.lines if loop in line.loops]


@dataclass(frozen=True)
class Source:
    """A module of kernels: its functions, and the names that it imports."""

    functions: tuple[Function, ...]
    imports: frozenset[str]


def parsed(text: str) -> Source:
    """Return the syntax of a source."""
    tree, imports, functions = ast.parse(text), set[str](), list[Function]()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports |= {a.asname or a.name.partition(".")[0] for a in node.names}
        elif isinstance(node, ast.FunctionDef) and _is_jitted(node):
            functions.append(Function(node, tuple(_lines(node.body, ()))))
    return Source(tuple(functions), frozenset(imports))


def _is_jitted(function: ast.FunctionDef) -> bool:
    decorators = (d.func if isinstance(d, ast.Call) else d for d in function.decorator_list)
    return any(dotted(d) == "triton.jit" for d in decorators)


def _lines(body: Iterable[ast.stmt], loops: tuple[Loop, ...]) -> Iterator[Line]:
    for node in body:
        yield _line(node, loops)
        inner = (*loops, node) if isinstance(node, Loop) else loops
        for part in ("body", "orelse"):
            if inside := getattr(node, part, None):
                yield from _lines(inside, inner)


def _line(node: ast.stmt, loops: tuple[Loop, ...]) -> Line:
    writes, reads, calls = list[str](), set[str](), list[tuple[str, ast.Call]]()
    todo = [getattr(node, name) for name in node._fields if name not in ("body", "orelse")]
    while todo:  # a loop over types: a visitor takes ten times as long
        part = todo.pop()
        kind = type(part)
        if kind is ast.Name:
            if type(part.ctx) is ast.Load:
                reads.add(part.id)
            else:
                writes.append(part.id)
        elif kind is list:
            todo += part
        elif kind in _LEAVES:
            continue
        elif kind is ast.BinOp:
            todo += part.left, part.right
        else:
            if kind is ast.Call:
                calls.append((dotted(part.func), part))
            todo += [getattr(part, name) for name in getattr(part, "_fields", ())]
    if isinstance(node, ast.AugAssign):
        reads.update(writes)
    return Line(node, tuple(writes), frozenset(reads), tuple(calls), loops)


# what has no expressions inside
_LEAVES = frozenset((ast.Constant, ast.Load, ast.Store, str, type(None), int))


def is_unrolled(loop: Loop) -> bool:
    """Return whether Triton repeats the body of a loop instead of compiling a loop."""
    return isinstance(loop, ast.For) and called(loop.iter) == "tl.static_range"


def targets(statement: ast.stmt) -> list[str]:
    """Return the variables that a statement itself assigns."""
    found = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    parts = (p for t in found for p in (t.elts if isinstance(t, ast.Tuple) else [t]))
    return [p.id for p in parts if isinstance(p, ast.Name)]


def called(node: ast.AST | None) -> str:
    """Return the name of the function that a call calls, `tl.load`, or nothing."""
    return dotted(node.func) if isinstance(node, ast.Call) else ""


def dotted(node: ast.AST) -> str:
    """Return a name with dots, or nothing."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{owner}.{node.attr}" if (owner := dotted(node.value)) else ""
    return ""


def keyword(call: ast.expr, name: str) -> object:
    """Return the constant that a call gets for a keyword, or None."""
    given = call.keywords if isinstance(call, ast.Call) else ()
    values = (k.value for k in given if k.arg == name)
    return next((v.value for v in values if isinstance(v, ast.Constant)), None)


def pointer(address: ast.expr) -> str:
    """Return the first operand of an address: the pointer that it is relative to."""
    while isinstance(address, ast.BinOp):
        address = address.left
    return address.id if isinstance(address, ast.Name) else ""
