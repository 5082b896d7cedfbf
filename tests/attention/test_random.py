"""Random scores from hypothesis, in tiles of torch and in kernels, compared with the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphnn as gn
from graphnn.backends.torch.operators import attention_tiles
from tests.attention.networks import Net, inputs, ragged
from tests.networks.equality import assert_same, results

WIDTH = 5
# functions of two vectors (a query and a key, or functions of them) that return a vector
MIXED: list[Callable[..., gn.Value]] = [
    lambda n, q, k: q + k,
    lambda n, q, k: q * k,
    lambda n, q, k: q - 0.5 * k,
    lambda n, q, k: torch.maximum(q, k),
    lambda n, q, k: torch.sigmoid(q) * k,
]
SHAPED: list[Callable[..., gn.Value]] = [
    lambda n, x: torch.tanh(x),
    lambda n, x: torch.relu(x),
    lambda n, x: x * x,
    lambda n, x: n.inner(x),
    lambda n, x: torch.softmax(x, -1),
    lambda n, x: torch.where(x > 0.1, x, 0.2 * x),
    lambda n, x: x - x.mean(-1, keepdim=True),
]
SUMMED: list[Callable[..., gn.Value]] = [
    lambda n, x: x.sum(-1),
    lambda n, x: x.amax(-1),
    lambda n, x: n.last(x),
    lambda n, x: torch.logsumexp(x, -1),
    lambda n, x: gn.dot(x, n.weight),
]
BENT: list[Callable[..., gn.Value]] = [
    lambda n, s: torch.tanh(s / 3) * 3,
    lambda n, s: s * 0.7 + 0.1,
    lambda n, s: torch.where(gn.index("source") <= gn.index("target") + 1, s, float("-inf")),
    lambda n, s: torch.where(gn.index("source") < gn.index("target"), s, float("-inf")),
    lambda n, s: s - 0.1 * (gn.index("target") - gn.index("source")).abs().to(s.dtype),
]


class Score(Net):
    """A score: mix a query and a key, apply functions, sum, and apply functions to the sum."""

    def __init__(self, mix: int, shapes: list[int], total: int, bends: list[int]):
        super().__init__(WIDTH, WIDTH)
        self.recipe = mix, shapes, total, bends
        self.inner, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)
        self.weight = nn.Parameter(torch.randn(WIDTH))

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        mix, shapes, total, bends = self.recipe
        x = MIXED[mix](self, torch.tanh(q), torch.tanh(k))
        for i in shapes:
            x = SHAPED[i](self, x)
        s = SUMMED[total](self, x)
        for i in bends:
            s = BENT[i](self, s)
        return s


def places(options: list[Callable[..., gn.Value]]) -> st.SearchStrategy[int]:
    return st.integers(0, len(options) - 1)


def check(mix: int, shapes: list[int], total: int, bends: list[int], short: bool) -> None:
    torch.manual_seed(0)
    net = Score(mix, shapes, total, bends).double()
    reference = gn.compile(net, backend="reference")
    given = inputs(reference, 2, 3, 7)
    lengths = ragged(reference, given) if short else {}
    wanted = results(reference, given, lengths)[0]
    before = attention_tiles.TILE
    try:
        for tile in (before, 16):
            attention_tiles.TILE = tile
            model = gn.compile(net, skip=("match",))
            assert model.plan.notes[0].part is not None, model.explain()
            assert_same(wanted, results(model, given, lengths)[0], 1e-11)
    finally:
        attention_tiles.TILE = before
    model = gn.compile(net, backend="interpret")
    assert "falls back:" not in model.explain()
    assert_same(wanted, results(model, given, lengths)[0], 1e-11)


recipes = given(
    places(MIXED),
    st.lists(places(SHAPED), max_size=3),
    places(SUMMED),
    st.lists(places(BENT), max_size=2),
    st.booleans(),
)


@recipes
@settings(max_examples=10)
def test_any_score(mix: int, shapes: list[int], total: int, bends: list[int], short: bool) -> None:
    check(mix, shapes, total, bends, short)


@pytest.mark.slow
@recipes
@settings(max_examples=100)
def test_many_scores(
    mix: int, shapes: list[int], total: int, bends: list[int], short: bool
) -> None:
    check(mix, shapes, total, bends, short)
