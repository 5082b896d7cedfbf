"""The reach inferred from a mask is correct: random masks are evaluated at all positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import graphnn as gn
from graphnn.planner.boundary.reach import Reaches

SIZE = 7
INF = float("inf")
COMPARE = {
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
}
_tests = st.tuples(st.sampled_from([*COMPARE]), st.integers(-3, 3), st.booleans(), st.booleans())
_masks: st.SearchStrategy[Any] = st.recursive(
    _tests | st.just("any"),
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or", "where"]), inner, inner)
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=5,
)


def mask_of(recipe: Any, some: Any) -> Any:
    """Builds the mask of a recipe; `some` is an arbitrary condition."""
    past, time = gn.index("past"), gn.index("time")
    if recipe == "any":
        return some
    op, *rest = recipe
    if op in COMPARE:
        shift, distance, negated = rest
        a, b = (past - time, shift) if distance else (past + shift, time)
        return COMPARE[op](0 - a if negated and distance else a, b)
    first, *others = (mask_of(r, some) for r in rest)
    if op == "not":
        return ~first
    if op == "where":
        return torch.where(some, first, others[0])
    return first & others[0] if op == "and" else first | others[0]


def holds(value: torch.Tensor, fill: Any, low: float, high: float) -> bool:
    """Whether a (time, past) value equals `fill` wherever past - time is outside [low, high]."""
    positions = torch.arange(SIZE)
    distance = positions[None, :] - positions[:, None]
    outside = (distance < low) | (distance > high)
    return bool((value[outside] == torch.tensor(fill).to(value.dtype)).all())


@given(_masks, st.integers(0, 5))
def test_inferred_reaches_are_correct(recipe: Any, form: int) -> None:
    g = gn.Graph("masks")
    x = g.input("x", (), over="time")
    some = gn.rename(x, time="past") > x * 0.5
    mask, score = mask_of(recipe, some), gn.rename(x, time="past") + x
    forms = (
        lambda: torch.where(mask, score, -INF),
        lambda: torch.where(mask, 0.0, score * 2.0),
        lambda: gn.softmax(torch.where(mask, score, -INF) * 0.5, over="past"),
        lambda: torch.where(mask, torch.where(mask_of("any", some), score, -INF), -INF) + x,
        lambda: torch.exp(score + torch.where(mask, 0.0, -INF)) * score,
        lambda: mask.to(torch.float32) * score,
    )
    value = forms[form]()
    g.output("mask", mask)
    g.output("value", value)
    reaches = Reaches(g.ir, "time", "past")
    x = torch.randn(1, SIZE, generator=torch.Generator().manual_seed(0))
    found = gn.compile(g)(x=x)
    for name, node in (("mask", mask), ("value", value)):
        order = node.axes
        shown = found[name][0] if len(order) == 2 else found[name][0].expand(SIZE, SIZE)
        shown = shown if order != ("past", "time") else shown.T
        for reach in reaches.found[node.id]:
            assert holds(shown, reach.fill, reach.low, reach.high), (name, reach)


KNOWN: dict[str, tuple[Any, tuple[Any, float, float]]] = {
    "causal": (("le", 0, False, False), (False, -INF, 0)),
    "ahead": (("gt", 0, False, False), (True, -INF, 0)),
    "window": (("and", ("le", 0, False, False), ("gt", 3, False, False)), (False, -2, 0)),
    "band": (("not", ("or", ("gt", 1, True, False), ("lt", -2, True, False))), (False, -2, 1)),
    "diagonal": (("eq", -1, True, False), (False, -1, -1)),
    "negated": (("ge", 2, True, True), (False, -INF, -2)),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_reach_of_common_masks_is_inferred_exactly(name: str) -> None:
    recipe, (fill, low, high) = KNOWN[name]
    g = gn.Graph("masks")
    x = g.input("x", (), over="time")
    gn.rename(x, time="past")
    mask = mask_of(recipe, None)
    known = {r.fill: (r.low, r.high) for r in Reaches(g.ir, "time", "past").found[mask.id]}
    assert known[fill] == (low, high)
