"""How many kernels are compiled before the first result, and how tuning goes on; on a fake GPU."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from tests.attention import networks
from tests.fake_gpu import FakeGpu, fake_gpu

pytestmark = pytest.mark.proof  # plans compile kernels to judge them
WIDTH = networks.WIDTH
# Kernels compiled before the first result, and by a later call, at most. A stepwise loop launches
# its kernels at each step, so one call may compile all their candidates.
MOST, MOST_LATER = 6, 12


class Layer(nn.Module):
    """A layer of the library."""

    def __init__(self, make: Any, width: int):
        super().__init__()
        self.layer, self.width = make(width, width), width

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layer(g.input("x", (self.width,), over="time")))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeGpu:
    """A fake GPU that compiles and runs nothing, with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GRAPHNN_TRUST", "0")
    monkeypatch.delenv("GRAPHNN_TUNE", raising=False)
    made = fake_gpu(monkeypatch)
    made.only_compiles = True
    return made


def counts(gpu: FakeGpu, net: nn.Module, backend: str, calls: int) -> list[int]:
    """The number of kernels compiled after each training call."""
    found = []
    with gpu:
        model = gn.compile(gpu.module(net), backend=backend)
        names = ("q", "k") if isinstance(net, networks.Additive) else ("x",)
        width = getattr(net, "width", WIDTH)
        given = {n: gpu.put(torch.randn(16, 5, width)).requires_grad_() for n in names}
        for _ in range(calls):
            model(**given).sum().backward()
            found.append(len(gpu.compiled))
    return found


NETWORKS = {
    "LSTM 16": lambda: Layer(gn.nn.LSTM, 16),
    "MinGRU": lambda: Layer(gn.nn.MinGRU, 16),
    "additive attention": networks.Additive,
}


@pytest.mark.parametrize("backend", ["auto", "triton"])
@pytest.mark.parametrize("name", NETWORKS)
def test_few_kernels_are_compiled_before_the_first_result(
    gpu: FakeGpu, name: str, backend: str
) -> None:
    (first,) = counts(gpu, NETWORKS[name](), backend, 1)
    assert first <= MOST


def test_later_calls_compile_a_few_more_each_until_all_are_timed(gpu: FakeGpu) -> None:
    found = counts(gpu, NETWORKS["LSTM 16"](), "triton", 14)
    assert found[0] == 2, "one kernel forward, one backward"
    more = [b - a for a, b in pairwise(found)]
    assert max(more) <= MOST_LATER and more[-3:] == [0, 0, 0] and found[-1] > MOST


def test_all_are_compiled_at_once_if_that_is_wanted(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHNN_TUNE", "all")
    found = counts(gpu, NETWORKS["LSTM 16"](), "triton", 3)
    assert found[0] == found[2] > MOST
