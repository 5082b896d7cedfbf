"""Attention in tiles equals the reference in float64: outputs and all gradients."""

from __future__ import annotations

import functools

import pytest
import torch

import graphnn as gn
from graphnn.backends.torch.operators import attention_tiles
from tests.attention.networks import NETWORKS, inputs, ragged
from tests.networks.equality import assert_same, results

TOLERANCE = 1e-12
Values = dict[str, torch.Tensor]
# batch, queries, keys
SIZES = [(2, 3, 17), (1, 1, 1), (3, 1, 17), (2, 17, 1)]
# no input of these networks has an axis that could be ragged
FIXED = ("slots",)
CASES = [
    (name, short) for name in NETWORKS for short in (False, True) if not short or name not in FIXED
]
IDS = [f"{name}-{'ragged' if short else 'full'}" for name, short in CASES]
LARGE = [(1, 63, 130), (2, 100, 17), (2, 3, 130), (1, 100, 130)]


def made(name: str) -> torch.nn.Module:
    """A network with the same weights every time."""
    torch.manual_seed(0)
    return NETWORKS[name]().double()


@functools.cache
def defined(name: str, sizes: tuple[int, int, int], short: bool) -> tuple[Values, Values, Values]:
    """Inputs, lengths, and results of the reference; several backends are compared with it."""
    reference = gn.compile(made(name), backend="reference")
    given = inputs(reference, *sizes)
    lengths = ragged(reference, given) if short else {}
    return given, lengths, results(reference, given, lengths)[0]


def compare(
    name: str,
    backend: str,
    sizes: tuple[int, int, int],
    short: bool,
    skip: tuple[str, ...] = (),
) -> gn.Compiled:
    """Compare a backend with the reference."""
    given, lengths, wanted = defined(name, sizes, short)
    assert bool(lengths) == short
    model = gn.compile(made(name), backend=backend, skip=skip)
    assert all(v.isfinite().all() for v in wanted.values())
    assert_same(wanted, results(model, given, lengths)[0], TOLERANCE)
    return model


@pytest.mark.parametrize(("name", "short"), CASES, ids=IDS)
def test_torch_in_one_tile(name, short):
    for sizes in SIZES:
        compare(name, "torch", sizes, short)


@pytest.mark.parametrize("tile", [1, 40, 600])
@pytest.mark.parametrize("name", NETWORKS)
def test_torch_in_many_tiles(name, tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    for short in (False, True):
        # including plain attention, which otherwise uses torch's kernels
        compare(name, "torch", (2, 3, 7), short and name not in FIXED, ("match",))


@pytest.mark.parametrize(("name", "short"), CASES, ids=IDS)
def test_kernels(name, short):
    for sizes in SIZES[: 1 if short else 3]:
        model = compare(name, "interpret", sizes, short)
        assert "falls back:" not in model.explain()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", LARGE, ids=str)
@pytest.mark.parametrize(("name", "short"), CASES, ids=IDS)
def test_kernels_at_larger_sizes(name, short, sizes):
    compare(name, "interpret", sizes, short)


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize("name", ["dot", "additive", "slots", "story"])
def test_no_examples_at_all(name, backend):
    net = NETWORKS[name]().double()
    model = gn.compile(net, backend=backend)
    y = model(**inputs(model, 0, 3, 5))
    grads = torch.autograd.grad(y.sum(), list(model.parameters()), allow_unused=True)
    assert len(y) == 0 and all(g is None or not g.any() for g in grads)
