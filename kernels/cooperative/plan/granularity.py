"""Of how many numbers each value of a loop may be shared out among thread blocks.

Values whose numbers lie in the same places share a period: the greatest that divides the lengths of
them all, and where slices and joins cut them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ...analysis.layout import runs
from ...analysis.matmul_form import WeightMatmul, is_weight, letters, matmul_form
from ...ir.program import LoopProgram, LoopState, Op, Unsupported
from ...ir.symbols import NameTable
from .early_sums import last
from .row_owners import OWN, drawn, rowwise
from .split_products import parted

SOURCES = frozenset({"read", "draw", "const", "index", "size", "position"})


def granularities(program: LoopProgram) -> dict[str, int]:
    """For each value that depends on a state or a product, of how many numbers it may be shared.

    1: its numbers change places, or are needed together. Of values of one row a negative period;
    OWN: a block has all.
    """
    ops = {op.name: op for op in plainer(program)}
    dots = {
        name: dot for name, op in ops.items() if isinstance(dot := dot_of(op, ops), WeightMatmul)
    }
    own = rowwise(program, ops, dots)
    found = _Periods(ops, program.states, own).found()
    if not own:
        return found
    free = frozenset(name for name, p in found.items() if p < 2)
    own = drawn(ops, own, free)
    # without what has gone to the rows: a product whose parts serve them alone is one again
    found = _Periods(ops, program.states, own).found()
    within = _Periods(ops, program.states, frozenset(ops) - own).found()
    return {**found, **dict.fromkeys(own, OWN), **{name: -p for name, p in within.items()}}


def widest(program: LoopProgram, known: dict[str, int] | None = None) -> int:
    """The largest granularity of a value. Raises Unsupported if nothing can be sharded."""
    ops = {op.name: op for op in program.ops}
    if not any(isinstance(dot_of(op, ops), WeightMatmul) for op in program.ops):
        raise Unsupported("there is no product by a weight to share out")
    found = max((known or granularities(program)).values(), default=1)
    if found < 2:
        raise Unsupported("no value of a step can be shared out: its numbers change places")
    return found


def plainer(program: LoopProgram) -> list[Op]:
    """Operations, those products that are a pointwise one, or the sum of one, written so.

    Those by a weight are in parts where these are shared out differently.
    """
    ops = {op.name: op for op in program.ops}
    names = NameTable(ops)
    found: list[Op] = []
    for op in program.ops:
        if op.kind == "product" and not isinstance(dot_of(op, ops), WeightMatmul):
            found += _plain(op, ops, names)
        else:
            found.append(op)
    kept = {name for state in program.states for name in (*state.inits, state.next)}
    dots = {op.name: dot for op in found if isinstance(dot := dot_of(op, ops), WeightMatmul)}
    return parted(found, dots, frozenset(kept))


def dot_of(op: Op, ops: dict[str, Op]) -> Any:
    """How a product is computed; None for what is no product by a weight."""
    if op.kind != "product" or not any(is_weight(ops[a]) for a in op.args):
        return None
    return matmul_form(op, ops)


def _plain(op: Op, ops: dict[str, Op], names: NameTable) -> list[Op]:
    a, b, out = letters(op)
    full = max((a, b), key=len)
    if not (full.endswith(a) and full.endswith(b)) or set(out) - set(full):
        return [op]
    left = "".join(x for x in full if x in out)
    if left != out:
        return [op]
    attrs = {"template": "({0} * {1})", "linear_in": ((1, (0, 1)),)}
    pointed = replace(op, kind="point", attrs=attrs)
    if out == full:
        return [pointed]
    shape = max((ops[x].shape for x in op.args), key=len)
    made = replace(pointed, name=names.fresh(f"{op.name}_terms"), shape=shape)
    dims = tuple(d for d, x in enumerate(full) if x not in out)
    return [made, replace(op, kind="sum", args=(made.name,), attrs={"dims": dims})]


def broadcasts(op: Op, arg: Op) -> bool:
    """Whether an operand is the same along the last dimension of the result."""
    return last(arg) == 1 and last(op) > 1


class _Periods:
    """Values joined to those whose numbers lie in the same places, and what they must divide."""

    def __init__(self, ops: dict[str, Op], states: tuple[LoopState, ...], others: frozenset[str]):
        self.ops, self.states, self.others = ops, states, others
        self.parent = {name: name for name in ops}
        self.loose = loose(ops)
        self.divides = {name: last(op) for name, op in ops.items()}

    def found(self) -> dict[str, int]:
        for state in self.states:
            if state.name not in self.others:
                self._join(state.name, state.next)
        for op in self.ops.values():
            if op.name not in self.loose and op.name not in self.others:
                getattr(self, f"_{op.kind}", self._alone)(op)
        return {
            x: self.divides[self._root(x)] for x in self.ops if x not in self.loose | self.others
        }

    def _root(self, name: str) -> str:
        while (up := self.parent[name]) != name:
            self.parent[name] = name = self.parent[up]  # halves the way for those who ask next
        return name

    def _must(self, name: str, number: int) -> None:
        root = self._root(name)
        self.divides[root] = math.gcd(self.divides[root], number)

    def _join(self, a: str, b: str) -> None:
        """Two values lie alike; what can be read in any form takes that of the other."""
        if b in self.loose or b in self.others:
            self._must(a, last(self.ops[b]))
            return
        first, second = self._root(a), self._root(b)
        if first != second:
            self.parent[second] = first
            self._must(first, self.divides[second])

    def _state(self, op: Op) -> None:
        """Joined to its next value."""

    def _point(self, op: Op) -> None:
        for arg in op.args:
            if not broadcasts(op, self.ops[arg]) and self.ops[arg].kind != "const":
                self._join(op.name, arg)

    _over_positions = _point

    def _view(self, op: Op) -> None:
        for arg, places in zip(op.args, op.attrs["maps"]):
            for run in runs(places):
                moves = run.step == 1 and self.ops[arg].kind != "const"
                self._must(op.name, run.out)
                self._must(op.name, run.size)
                if moves:
                    self._join(op.name, arg)
                    self._must(op.name, run.arg)

    def _product(self, op: Op) -> None:
        how = dot_of(op, self.ops)
        if not isinstance(how, WeightMatmul) or len(op.shape) != 1:
            self._alone(op)

    def _sum(self, op: Op) -> None:
        x = self.ops[op.args[0]]
        if len(x.shape) - 1 in op.attrs["dims"]:
            self._alone(op)
        else:
            self._join(op.name, x.name)

    _max = _sum

    def _alone(self, op: Op) -> None:
        self._must(op.name, 1)


def loose(ops: dict[str, Op]) -> set[str]:
    """Values made of what is read alone: each block can make those numbers that it wants."""
    found: set[str] = set()
    for op in ops.values():
        mine = op.kind in ("point", "view") and all(a in found for a in op.args)
        if op.kind in SOURCES or mine:
            found.add(op.name)
    return found
