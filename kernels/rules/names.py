"""Rules of names: whatever a user's names are, none takes the place of another."""

from __future__ import annotations

import builtins
from collections.abc import Iterator

from .syntax import Fault, Source

BUILT_IN = frozenset(dir(builtins))


def collisions(source: Source) -> Iterator[Fault]:
    """Yield the variables that hide an import, a function that is called, or a constant."""
    for function in source.functions:
        called = {name for line in function.lines for name, _ in line.calls}
        taken = source.imports | called
        for name in taken.intersection(function.arguments):
            yield function.node.lineno, f"the argument '{name}' hides what the kernel uses"
        for line in function.lines:
            for name in (taken | function.constants).intersection(line.writes):
                yield line.node.lineno, f"'{name}' is assigned, and is something else in the kernel"


def unknown_names(source: Source) -> Iterator[Fault]:
    """Yield the names that a kernel reads before anything assigns them."""
    defined = source.imports | BUILT_IN | {f.node.name for f in source.functions}
    for function in source.functions:
        known = {*defined, *function.arguments}
        for line in function.lines:
            for name in sorted(line.reads - known):
                yield line.node.lineno, f"'{name}' is read, and nothing before assigns it"
            known.update(line.writes)
