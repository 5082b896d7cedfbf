"""How far along a copy of an axis a value reads from its own position, inferred from its masks.

For a value over an axis and a copy of it, the analysis knows where it equals a constant, its fill:
`where(past <= time, score, -inf)` is -inf wherever past - time is above 0. This is propagated from
comparisons of positions to reductions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import OPS

INF = math.inf


@dataclass(frozen=True)
class Reach:
    """The value is `fill` wherever other - own lies outside of `low` to `high`."""

    fill: float | bool
    low: float
    high: float

    def within(self, other: Reach) -> Reach:
        """The intersection: two facts about one value."""
        return replace(self, low=max(self.low, other.low), high=min(self.high, other.high))

    def around(self, other: Reach) -> Reach:
        """The region outside which the values of both are filled."""
        return replace(self, low=min(self.low, other.low), high=max(self.high, other.high))


# the fill that is neutral in a reduction over the copy
NEUTRAL: dict[str, float] = {
    "axis_sum": 0,
    "axis_softmax": -INF,
    "axis_max": -INF,
    "axis_logsumexp": -INF,
    "axis_argmax": -INF,
    "axis_top": -INF,
}
# operations whose result an operand of this fill determines, and the positions it may have
ABSORBING: dict[str, tuple[float, tuple[int, ...]]] = {
    "logical_and": (False, (0, 1)),
    "logical_or": (True, (0, 1)),
    "mul": (0, (0, 1)),
    "div": (0, (0,)),
    "add": (-INF, (0, 1)),
    "sub": (-INF, (0,)),
    "einsum": (0, (0, 1)),
}
# fills that reductions over other axes preserve
PRESERVED = {"sum": (0, -INF), "amax": (0, -INF), "axis_sum": (0, -INF), "axis_max": (0, -INF)}
EVERYWHERE = (INF, -INF)

# d = other - own compared with n: where the result is false, and where it is true
TESTS: dict[str, Callable[[float], tuple[Reach, ...]]] = {
    "lt": lambda n: (Reach(False, -INF, n - 1), Reach(True, n, INF)),
    "le": lambda n: (Reach(False, -INF, n), Reach(True, n + 1, INF)),
    "gt": lambda n: (Reach(False, n + 1, INF), Reach(True, -INF, n)),
    "ge": lambda n: (Reach(False, n, INF), Reach(True, -INF, n - 1)),
    "eq": lambda n: (Reach(False, n, n),),
    "ne": lambda n: (Reach(True, n, n),),
}
MIRRORED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le", "eq": "eq", "ne": "ne"}


class Reaches:
    """The facts about every value of a graph, for one axis and one copy of it."""

    def __init__(self, ir: IR, axis: str, copy: str):
        self.ir, self.axis, self.copy = ir, axis, copy
        self.found: dict[int, tuple[Reach, ...]] = {}
        # integers of the form p·other + q·own + c, as (p, q, c)
        self.positions: dict[int, tuple[int, int, int]] = {}
        for node in ir:
            position = self._position(node)
            if position is not None:
                self.positions[node.id] = position
            self.found[node.id] = _merged(self._of(node))

    def of_reduction(self, node: Node) -> Reach | None:
        """How far a reduction over the copy reads; None if nothing bounds it."""
        known = self.found[node.id] if node.op == "einsum" else self.found[node.inputs[0]]
        wanted = NEUTRAL.get(node.op, 0 if node.op == "einsum" else None)
        return next((r for r in known if r.fill == wanted), None)

    def _position(self, node: Node) -> tuple[int, int, int] | None:
        if node.op == "index" and node.attrs["axis"] in (self.axis, self.copy):
            other = int(node.attrs["axis"] == self.copy)
            return other, 1 - other, 0
        if node.op == "const":
            value = node.attrs["value"]
            return (0, 0, value) if type(value) is int else None
        known = [self.positions.get(i) for i in node.inputs]
        a, b = (known[0] if known else None), (known[1] if len(known) > 1 else None)
        if node.op in ("add", "sub") and a is not None and b is not None:
            sign = 1 if node.op == "add" else -1
            return a[0] + sign * b[0], a[1] + sign * b[1], a[2] + sign * b[2]
        if node.op == "neg" and a is not None:
            return -a[0], -a[1], -a[2]
        if node.op == "rename" and a is not None and a[0] == 0:
            return (a[1], 0, a[2]) if node.attrs["axes"].get(self.axis) == self.copy else None
        return None

    def _of(self, node: Node) -> Iterable[Reach]:
        family = OPS[node.op].family
        if node.op == "const":
            return (Reach(node.attrs["value"], *EVERYWHERE),)
        if node.op in TESTS and (test := self._tested(node)):
            return test
        if node.op == "where":
            return self._where(node)
        if family in ("pointwise", "einsum"):
            return (*self._absorbed(node), *self._computed(node))
        if family in ("view", "rename"):
            return self.found[node.inputs[0]]
        if node.op == "axis_softmax" and node.attrs["axis"] == self.copy:
            inner = self.of_reduction(node)
            return () if inner is None else (replace(inner, fill=0),)
        if node.op in PRESERVED and node.attrs.get("axis") != self.copy:
            return (r for r in self.found[node.inputs[0]] if r.fill in PRESERVED[node.op])
        return ()

    def _tested(self, node: Node) -> tuple[Reach, ...]:
        """The facts about a comparison of ±(other - own) + c with zero."""
        a, b = (self.positions.get(i) for i in node.inputs)
        if a is None or b is None:
            return ()
        p, q, c = (x - y for x, y in zip(a, b))
        if (p, q) == (1, -1):
            return TESTS[node.op](-c)
        return TESTS[MIRRORED[node.op]](c) if (p, q) == (-1, 1) else ()

    def _absorbed(self, node: Node) -> Iterable[Reach]:
        fill, places = ABSORBING.get(node.op, (0, ()))
        for k in places:
            yield from (r for r in self.found[node.inputs[k]] if r.fill == fill)

    def _computed(self, node: Node) -> Iterable[Reach]:
        """The operation applied to the fills, where every operand has one."""
        if OPS[node.op].family != "pointwise":
            return
        attrs = {k: v for k, v in node.attrs.items() if k not in OPS[node.op].private}
        for operands in itertools.product(*(self.found[i] for i in node.inputs)):
            outer = operands[0]
            for other in operands[1:]:
                outer = outer.around(other)
            fills = [torch.tensor(r.fill) for r in operands]
            try:
                fill = OPS[node.op].run(*fills, **attrs).item()  # type: ignore[misc]
            except (RuntimeError, ZeroDivisionError):  # an integer division by zero
                continue
            if fill == fill:
                yield replace(outer, fill=fill)

    def _where(self, node: Node) -> Iterable[Reach]:
        """The branch that a known test selects; otherwise facts that hold for both branches."""
        test, *branches = (self.found[i] for i in node.inputs)
        for fact in test:
            picked, other = branches if fact.fill else branches[::-1]
            for known in picked:
                outside = fact.around(known)
                yield replace(outside, fill=known.fill)
                if (known.low, known.high) == EVERYWHERE:
                    same = (r for r in other if r.fill == known.fill)
                    yield from (r.within(fact) for r in same)
        for first, second in itertools.product(*branches):
            if first.fill == second.fill:
                yield first.around(second)


def _merged(known: Iterable[Reach]) -> tuple[Reach, ...]:
    """One fact for each fill: the intersection of all."""
    found: dict[Any, Reach] = {}
    for reach in known:
        if (reach.low, reach.high) != (-INF, INF):
            before = found.get(reach.fill)
            found[reach.fill] = reach if before is None else before.within(reach)
    return tuple(found.values())
