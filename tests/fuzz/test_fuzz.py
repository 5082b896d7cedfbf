"""Random torch code in graphs, judged by the same code run eagerly, example by example."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.fuzz.check import check
from tests.fuzz.recipe import Block, Op, Recipe, Section, recipes


@given(recipes())
@settings(max_examples=60)
def test_random_code(recipe: Recipe) -> None:
    check(recipe)


@given(recipes(most=3))
@settings(max_examples=10)
def test_random_code_in_kernels(recipe: Recipe) -> None:
    check(recipe, "interpret")


@pytest.mark.slow
@given(recipes())
@settings(max_examples=10_000)
def test_much_random_code(recipe: Recipe) -> None:
    check(recipe)


@pytest.mark.slow
@given(recipes(most=3))
@settings(max_examples=1_000)
def test_much_random_code_in_kernels(recipe: Recipe) -> None:
    check(recipe, "interpret")


ONE = (("float", (3,), ("time",)),)


def code(*ops: Op, a: int = 4, b: int = 4, out: int = 0) -> Recipe:
    """A network of one block; of the lines before it 3 is the input."""
    return Recipe(ONE, (Section(steps=(Block(a, b, ops, out, tame=False),)),))


# what was found, by its cause
FOUND: dict[str, Recipe] = {}


@pytest.mark.parametrize("backend", ["torch", "interpret", "reference"])
@pytest.mark.parametrize("name", FOUND)
def test_found(name: str, backend: str) -> None:
    assert check(FOUND[name], backend) == "alike"
