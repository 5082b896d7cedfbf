"""Kernels equal the definition in float64: outputs, final states and all gradients, every cell.

On a GPU float64 loops go step by step whatever is asked; no GPU has run them yet.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from tests.backends.triton.cells import CELLS, Sizes, inputs, network, ragged, run, skipped
from tests.backends.triton.places import INTERPRET, STRATEGIES, Place, both, choices, everywhere
from tests.nn.common import close

TOLERANCE = 1e-12
BATCHES, TIMES, HIDDEN = (1, 3, 17), (1, 2, 9), (1, 8, 20, 33, 64)
PRODUCT = [Sizes(*s) for s in itertools.product(BATCHES, TIMES, HIDDEN)]
# every cell takes some of these in turn; they have all values of each size
SOME = [Sizes(1, 9, 8), Sizes(17, 1, 33), Sizes(3, 2, 20), Sizes(1, 2, 64), Sizes(3, 9, 1)]
# layers, directions and networks within cells: many loops, so fewer steps
LARGE = {name for name in CELLS if "both_ways" in name or "everything" in name or "hyper" in name}
BRIEF = [Sizes(1, 2, 20), Sizes(17, 1, 1), Sizes(3, 2, 8)]


def covering() -> list[Any]:
    """Every cell in both strategies at one size each, the small ones at a third among the slow."""
    found = []
    for k, name in enumerate(CELLS):
        sizes, wanted = (BRIEF, STRATEGIES) if name in LARGE else (SOME, (*STRATEGIES, "resident"))
        for j, strategy in enumerate(wanted):
            size = sizes[(len(wanted) * k + j) % len(sizes)]
            found.append(pytest.param(name, size, strategy, marks=[pytest.mark.slow] * (j > 1)))
    return found


# A norm over one or two numbers gives ±1 whatever they are: of its gradient, a sum of terms near 1,
# 1e-5 to 1e-3 is left, with the rounding of the terms (torch's own loop is off by as much)
CANCELLED = 1e-2


def check(name: str, sizes: Sizes, strategy: str, place: Place, short: bool) -> None:
    """Hold one strategy against the reference."""
    net = network(name, sizes.hidden)
    given = inputs(net, sizes, torch.float64, "cpu")
    lengths = ragged(sizes, "cpu") if short else {}
    wanted, _ = run(net, Place("reference", "cpu"), (), given, lengths)
    net = net.to(place.device)
    given = inputs(net, sizes, torch.float64, place.device)
    lengths = {k: v.to(place.device) for k, v in lengths.items()}
    got, model = run(net, place, skipped(name, place, strategy), given, lengths)
    least = {"least": CANCELLED} if sizes.hidden == 1 and "layer_norm" in name else {}
    close({k: v.cpu() for k, v in got.items()}, wanted, TOLERANCE, **least)
    strategy = place.carries(strategy, torch.float64)
    assert all(c.strategy == strategy for c in choices(model)), choices(model)


@everywhere
@pytest.mark.parametrize("name, sizes, strategy", covering(), ids=str)
def test_equals_the_reference(name: str, sizes: Sizes, strategy: str, place: Place) -> None:
    check(name, sizes, strategy, place, short=sizes.batch == 3)


@pytest.mark.slow
@both
@pytest.mark.parametrize("short", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("sizes", PRODUCT, ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_equals_the_reference_at_all_sizes(
    name: str, sizes: Sizes, strategy: str, short: bool
) -> None:
    check(name, sizes, strategy, INTERPRET, short)
