"""Backend "torch" against "reference" on graphs nobody wrote, with passes on and off."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn.planner.plan import SWITCHABLE
from tests.graphs import Drawn, Recipe, compare, recipes, tensors

SKIPS = [(), *[(name,) for name in SWITCHABLE], tuple(SWITCHABLE)]


def check(recipe: Recipe, skip: tuple[str, ...]) -> None:
    inputs, lengths = tensors(recipe)
    compare(Drawn(recipe), inputs, lengths, recipe.given, sorted({(), skip}))


@given(recipes(), st.sampled_from(SKIPS[1:]))
@settings(max_examples=200)
def test_random_graphs(recipe: Recipe, skip: tuple[str, ...]) -> None:
    check(recipe, skip)


@pytest.mark.slow
@given(recipes(most_steps=14), st.sampled_from(SKIPS[1:]))
@settings(max_examples=3000)
def test_many_random_graphs(recipe: Recipe, skip: tuple[str, ...]) -> None:
    check(recipe, skip)
