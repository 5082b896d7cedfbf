"""Weights that are read by more than weighted sums: equal to the definition, and not stored."""

from __future__ import annotations

import pytest
import torch

import graphnn as gn
from graphnn.backends.torch import chunks
from tests.attention.networks import inputs, ragged
from tests.attention.readers import READERS
from tests.graphs import assert_same, results

TOLERANCE = 1e-12
# batch, queries, keys
LOGARITHMS = ("forms", "scores")
SIZES = [(2, 3, 17), (1, 1, 1), (3, 1, 17), (2, 17, 1), (0, 3, 5)]


def compare(name: str, backend: str, sizes: tuple[int, int, int], short: bool) -> gn.Compiled:
    """Hold a backend against the reference."""
    torch.manual_seed(0)
    net = READERS[name]().double()
    reference = gn.compile(net, backend="reference")
    model = gn.compile(net, backend=backend)
    given = inputs(model, *sizes)
    lengths = ragged(model, given) if short else {}
    if name in LOGARITHMS:
        # the logarithm of nothing at all is no number
        lengths = {k: n.clamp(min=1) for k, n in lengths.items()}
    wanted, got = (results(m, given, lengths)[0] for m in (reference, model))
    assert all(v.isfinite().all() for v in wanted.values())
    assert_same(wanted, got, TOLERANCE)
    return model


@pytest.mark.parametrize("short", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", READERS)
def test_torch_in_one_tile(name, short):
    if short and name == "naive":
        pytest.skip("by the definition log 0 has no gradient")
    for sizes in SIZES:
        compare(name, "torch", sizes, short)


@pytest.mark.parametrize("tile", [1, 40])
@pytest.mark.parametrize("name", READERS)
def test_torch_in_many_tiles(name, tile, monkeypatch):
    monkeypatch.setattr(chunks, "TILE", tile)
    for short in (False, True)[: 1 + (name != "naive")]:
        compare(name, "torch", (2, 3, 7), short)


@pytest.mark.parametrize("name", READERS)
def test_nothing_as_large_as_the_weights_is_left(name):
    plan = gn.compile(READERS[name]()).plan
    for note in plan.notes:
        assert "stored" not in note.reason
        if note.part is None:
            assert name == "rows" and "for the one query that 'axis_at" in note.reason
            continue
        wide = [n for n in plan.ir if note.part.spread(n.axes) and n.op not in ("input", "attend")]
        assert not wide
