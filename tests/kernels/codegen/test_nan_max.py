"""A maximum of numbers with a NaN among them is NaN in kernels, as in torch."""

from __future__ import annotations

import pytest
import torch

import graphnn as gn
from tests.backends.triton.places import INTERPRET, ORDER


def loop() -> gn.Graph:
    """A loop that computes the maximum of its own values at each step."""
    g = gn.Graph("g")
    x, s = g.input("x", (5,), over="time"), g.state("s", ())
    largest = (x * 2 + s).amax(0)
    s.next = torch.tanh(largest)
    g.output("y", largest)
    return g


def scores() -> gn.Graph:
    """Attention whose scores are maxima."""
    g = gn.Graph("g")
    q, k = g.input("q", (5,), over="target"), g.input("k", (5,), over="source")
    weights = gn.softmax((q * k).amax(0), over="source")
    g.output("y", gn.sum(weights * k, over="source"))
    return g


@pytest.mark.parametrize("strategy", ORDER)
def test_in_loops(strategy):
    x = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).double()
    x[0, 1, 2] = float("nan")
    want = gn.compile(loop(), backend="reference").double()(x=x)
    assert want[0].isnan().tolist() == [False, True, True]
    got = gn.compile(loop(), backend="interpret", skip=INTERPRET.skip(strategy)).double()(x=x)
    torch.testing.assert_close(got, want, equal_nan=True)


def test_in_scores():
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 5, generator=draw).double() for n in (3, 4))
    q[0, 1, 2] = float("nan")
    want = gn.compile(scores(), backend="reference").double()(q=q, k=k)
    assert want.isnan().any() and not want.isnan().all()
    got = gn.compile(scores(), backend="interpret").double()(q=q, k=k)
    torch.testing.assert_close(got, want, equal_nan=True)
