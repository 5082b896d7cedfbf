"""Shard granularity: into groups of how many elements each value of a loop may be sharded.

Values whose elements lie at the same indices have one granularity: the greatest number that divides
the lengths of all of them, and the indices at which slices and joins cut them.
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
from .row_owners import OWN, row_owned, with_sources
from .split_products import split_products

SOURCES = frozenset({"read", "draw", "const", "index", "size", "position"})


def granularities(program: LoopProgram) -> dict[str, int]:
    """The shard granularity of each value that depends on a state or a product.

    1: the value cannot be sharded, as its elements are permuted or needed together. Negative: it is
    sharded among the blocks of one row. OWN: one block has all of it.
    """
    ops = {op.name: op for op in with_pointwise_products(program)}
    dots = {
        name: dot for name, op in ops.items() if isinstance(dot := dot_of(op, ops), WeightMatmul)
    }
    own = row_owned(program, ops, dots)
    found = _Granularities(ops, program.states, own).found()
    if not own:
        return found
    free = frozenset(name for name, p in found.items() if p < 2)
    own = with_sources(ops, own, free)
    # Values owned by rows are settled. A product that was split only for them is whole again
    found = _Granularities(ops, program.states, own).found()
    within = _Granularities(ops, program.states, frozenset(ops) - own).found()
    return {**found, **dict.fromkeys(own, OWN), **{name: -p for name, p in within.items()}}


def largest_granularity(program: LoopProgram, known: dict[str, int] | None = None) -> int:
    """The largest granularity of a value. Raises Unsupported if nothing can be sharded."""
    ops = {op.name: op for op in program.ops}
    if not any(isinstance(dot_of(op, ops), WeightMatmul) for op in program.ops):
        raise Unsupported("there is no product by a weight to shard")
    found = max((known or granularities(program)).values(), default=1)
    if found < 2:
        raise Unsupported("no value of a step can be sharded: its elements are permuted")
    return found


def with_pointwise_products(program: LoopProgram) -> list[Op]:
    """The operations, with pointwise products, and sums of them, written as such.

    Products by a weight are split if their parts have different granularities.
    """
    ops = {op.name: op for op in program.ops}
    names = NameTable(ops)
    found: list[Op] = []
    for op in program.ops:
        if op.kind == "einsum" and not isinstance(dot_of(op, ops), WeightMatmul):
            found += _as_pointwise_product(op, ops, names)
        else:
            found.append(op)
    kept = {name for state in program.states for name in (*state.inits, state.next)}
    dots = {op.name: dot for op in found if isinstance(dot := dot_of(op, ops), WeightMatmul)}
    return split_products(found, dots, frozenset(kept))


def dot_of(op: Op, ops: dict[str, Op]) -> Any:
    """How a product is computed; None if it is no product by a weight."""
    if op.kind != "einsum" or not any(is_weight(ops[a]) for a in op.args):
        return None
    return matmul_form(op, ops)


def _as_pointwise_product(op: Op, ops: dict[str, Op], names: NameTable) -> list[Op]:
    a, b, out = letters(op)
    full = max((a, b), key=len)
    if not (full.endswith(a) and full.endswith(b)) or set(out) - set(full):
        return [op]
    left = "".join(x for x in full if x in out)
    if left != out:
        return [op]
    attrs = {"template": "({0} * {1})", "linear_in": ((1, (0, 1)),)}
    pointed = replace(op, kind="pointwise", attrs=attrs)
    if out == full:
        return [pointed]
    shape = max((ops[x].shape for x in op.args), key=len)
    made = replace(pointed, name=names.fresh(f"{op.name}_terms"), shape=shape)
    dims = tuple(d for d, x in enumerate(full) if x not in out)
    return [made, replace(op, kind="sum", args=(made.name,), attrs={"dims": dims})]


def broadcasts(op: Op, arg: Op) -> bool:
    """Whether an operand is the same along the last dimension of the result."""
    return last(arg) == 1 and last(op) > 1


class _Granularities:
    """Groups of values whose elements lie at the same indices, and the divisors of each group."""

    def __init__(self, ops: dict[str, Op], states: tuple[LoopState, ...], others: frozenset[str]):
        self.ops, self.states, self.others = ops, states, others
        self.parent = {name: name for name in ops}
        self.recomputable = recomputable(ops)
        self.divides = {name: last(op) for name, op in ops.items()}

    def found(self) -> dict[str, int]:
        for state in self.states:
            if state.name not in self.others:
                self._join(state.name, state.next)
        for op in self.ops.values():
            if op.name not in self.recomputable and op.name not in self.others:
                getattr(self, f"_{op.kind}", self._unsharded)(op)
        return {
            x: self.divides[self._root(x)]
            for x in self.ops
            if x not in self.recomputable | self.others
        }

    def _root(self, name: str) -> str:
        while (up := self.parent[name]) != name:
            self.parent[name] = name = self.parent[up]  # path halving
        return name

    def _restrict(self, name: str, number: int) -> None:
        root = self._root(name)
        self.divides[root] = math.gcd(self.divides[root], number)

    def _join(self, a: str, b: str) -> None:
        """Puts two values into one group. A value that has any form follows the other one."""
        if b in self.recomputable or b in self.others:
            self._restrict(a, last(self.ops[b]))
            return
        first, second = self._root(a), self._root(b)
        if first != second:
            self.parent[second] = first
            self._restrict(first, self.divides[second])

    def _state(self, op: Op) -> None:
        """A state is joined to its next value beforehand."""

    def _pointwise(self, op: Op) -> None:
        for arg in op.args:
            if not broadcasts(op, self.ops[arg]) and self.ops[arg].kind != "const":
                self._join(op.name, arg)

    _over_positions = _pointwise

    def _view(self, op: Op) -> None:
        for arg, places in zip(op.args, op.attrs["maps"]):
            for run in runs(places):
                moves = run.step == 1 and self.ops[arg].kind != "const"
                self._restrict(op.name, run.out)
                self._restrict(op.name, run.size)
                if moves:
                    self._join(op.name, arg)
                    self._restrict(op.name, run.arg)

    def _einsum(self, op: Op) -> None:
        how = dot_of(op, self.ops)
        if not isinstance(how, WeightMatmul) or len(op.shape) != 1:
            self._unsharded(op)

    def _sum(self, op: Op) -> None:
        x = self.ops[op.args[0]]
        if len(x.shape) - 1 in op.attrs["dims"]:
            self._unsharded(op)
        else:
            self._join(op.name, x.name)

    _max = _sum

    def _unsharded(self, op: Op) -> None:
        self._restrict(op.name, 1)


def recomputable(ops: dict[str, Op]) -> set[str]:
    """Values that are computed from tensors alone: each block can compute any part of them."""
    found: set[str] = set()
    for op in ops.values():
        mine = op.kind in ("pointwise", "view") and all(a in found for a in op.args)
        if op.kind in SOURCES or mine:
            found.add(op.name)
    return found
