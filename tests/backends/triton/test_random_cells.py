"""Backend "interpret" equals "reference" on cells and graphs nobody wrote, in both strategies."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.backends.triton.places import INTERPRET, STRATEGIES
from tests.networks import graphs, random_cells
from tests.networks.equality import compare
from tests.networks.graphs import Drawn, Recipe, recipes
from tests.networks.random_cells import CellRecipe, RandomCell, cells

SKIPS = [INTERPRET.skip(strategy) for strategy in STRATEGIES]


def check_graph(recipe: Recipe) -> None:
    """A graph of several sections and axes."""
    inputs, lengths = graphs.tensors(recipe)
    compare(Drawn(recipe), inputs, lengths, recipe.given, SKIPS, backend="interpret")


def check_cell(recipe: CellRecipe) -> None:
    """One loop over time."""
    inputs, lengths = random_cells.tensors(recipe)
    compare(RandomCell(recipe), inputs, lengths, recipe.given, SKIPS, backend="interpret")


@given(recipes(most_steps=4))
@settings(max_examples=12)
def test_random_graphs(recipe: Recipe) -> None:
    check_graph(recipe)


@given(cells())
@settings(max_examples=20)
def test_random_cells(recipe: CellRecipe) -> None:
    check_cell(recipe)


@pytest.mark.slow
@given(recipes(most_steps=10))
@settings(max_examples=300)
def test_many_random_graphs(recipe: Recipe) -> None:
    check_graph(recipe)


@pytest.mark.slow
@given(cells(most_steps=12))
@settings(max_examples=300)
def test_many_random_cells(recipe: CellRecipe) -> None:
    check_cell(recipe)
