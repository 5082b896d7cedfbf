"""Random graphs: backends "torch" and "reference" agree, with passes on and off."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn.planner.pipeline import SWITCHABLE
from tests.networks.equality import compare
from tests.networks.graphs import Drawn, Memory, Recipe, Section, Step, recipes, tensors

SKIPS = [(), *[(name,) for name in SWITCHABLE], tuple(SWITCHABLE)]


def check(recipe: Recipe, skip: tuple[str, ...]) -> None:
    inputs, lengths = tensors(recipe)
    compare(Drawn(recipe), inputs, lengths, recipe.given, sorted({(), skip}))


@given(recipes(), st.sampled_from(SKIPS[1:]))
@settings(max_examples=100)
def test_random_graphs_agree_on_both_backends(recipe: Recipe, skip: tuple[str, ...]) -> None:
    check(recipe, skip)


@pytest.mark.slow
@given(recipes(most_steps=14), st.sampled_from(SKIPS[1:]))
@settings(max_examples=3000)
def test_many_random_graphs_agree_on_both_backends(recipe: Recipe, skip: tuple[str, ...]) -> None:
    check(recipe, skip)


ONE = ((0, ("time",)),)

# earlier failures found by hypothesis, by cause
FOUND: dict[str, Recipe] = {
    "empty example in a reverse loop: its final state is its first": Recipe(
        ONE, (Section(ahead=True, states=(Memory(0),)),), sizes=(2, 1), ragged=("time",)
    ),
    "examples shorter than the delay, reverse loop": Recipe(
        ONE, (Section(ahead=True, states=(Memory(0, 3),)),), sizes=(4, 1), ragged=("time",)
    ),
    "final states at padded positions of a state's own axis": Recipe(
        ((0, ("source",)), *ONE),
        (Section(states=(Memory(0, along=("source",)),)),),
        ragged=("source",),
    ),
    "a state updated by another state": Recipe(
        ONE, (Section(states=(Memory(2), Memory(2))),), batch=1, sizes=(1, 1)
    ),
    "gradients of several delay slots": Recipe(
        ONE, (Section(states=(Memory(0, 3),)),), batch=1, sizes=(2, 1), given=True
    ),
    "weights used out of order": Recipe(
        ONE,
        (
            Section(states=(Memory(0, along=("slot",), init="computed"),)),
            Section(states=(Memory(0, along=("slot",), init="computed"), Memory(0))),
        ),
        outputs=((6, True),),
        batch=1,
        sizes=(1, 1),
    ),
    "a loop that reads nothing": Recipe(
        ONE,
        (
            Section(
                states=(Memory(2, 3, init="number", close=7),),
                steps=(
                    Step("linear"),
                    Step("opaque", a=1),
                    Step("linear", k=1),
                    Step("linear"),
                ),
            ),
        ),
        batch=1,
        sizes=(1, 1),
    ),
    "a state updated by a value with fewer axes": Recipe(
        ONE,
        (
            Section(
                states=(Memory(0, along=("slot",), init="parameter"),),
                steps=(Step("linear", k=1), Step("linear"), Step("axis_mean", a=2)),
            ),
        ),
        sizes=(3, 1),
    ),
    "an update with fewer axes and two delays": Recipe(
        ONE,
        (
            Section(
                states=(Memory(2, 2, along=("slot",)),),
                steps=(
                    Step("linear", k=1),
                    Step("linear", k=1),
                    Step("linear", k=1),
                    Step("axis_sum", a=4),
                ),
            ),
        ),
        batch=1,
        sizes=(1, 1),
    ),
    "a fixed axis whose length loses the batch": Recipe(
        ONE, (Section(steps=(Step("long", k=1),)),), outputs=((0, False), (0, False)), sizes=(1, 1)
    ),
    "a mean over a fixed axis without a batch, before a loop": Recipe(
        ONE,
        (
            Section(
                states=(Memory(0),),
                steps=(Step("axis_mean", a=1), Step("two", b=2), Step("weighted")),
            ),
        ),
        sizes=(1, 1),
    ),
    "scalars in `where` have the model's dtype": Recipe(
        ONE,
        (Section(states=(Memory(0),), steps=(Step("sub"),)),),
        outputs=((9, False),),
        batch=1,
        sizes=(1, 1),
        ragged=("time",),
    ),
    "a scan divided by an integer has the model's dtype": Recipe(
        ((0, ("time",)), (0, ("time", "source"))),
        (
            Section(
                axis="source",
                states=(Memory(0),),
                steps=(Step("linear"), Step("long", a=1)),
            ),
        ),
        outputs=((0, False),),
        batch=2,
        sizes=(1, 1),
    ),
}


@pytest.mark.parametrize(
    "skip", [(), ("simplify",), tuple(SWITCHABLE)], ids=["passes", "unsimplified", "none"]
)
@pytest.mark.parametrize("name", FOUND)
def test_graphs_that_failed_earlier_agree(name: str, skip: tuple[str, ...]) -> None:
    check(FOUND[name], skip)
