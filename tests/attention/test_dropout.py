"""Dropout of weights, drawn in tiles if a model recomputes: equal to the reference with the same
random numbers, and without a tensor as large as the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.random import by_counter
from graphnn.backends.torch.operators import attention_tiles
from graphnn.backends.torch.runtime.philox import block_positions, dropout
from graphnn.kernels.executors.named import INTERPRETER
from graphnn.kernels.runtime.random import random_tensor
from tests.attention.networks import WIDTH, Additive, inputs, ragged
from tests.attention.test_memory import peak
from tests.networks.equality import assert_same, results


class Dropped(Additive):
    """Weights of which half are dropped, and the entropy of the rest."""

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (self.width,), over="target")
        k = g.input("k", (self.width,), over="source")
        w = gn.softmax(self.score(self.query(q), self.key(k)), over="source")
        w = nn.functional.dropout(w, 0.5, self.training)
        g.output("y", gn.sum(w * self.value(k), over="source"))
        g.output("entropy", gn.entropy(w, over="source"))
        g.output("got", gn.sum(w, over="target"))


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Linear(WIDTH, 3 * WIDTH)

    def graph(self, g: gn.Graph) -> None:
        q, k, v = self.maps(g.input("x", (WIDTH,), over="time")).chunk(3)
        g.output("y", gn.attend(q, k, v, over="time", heads=2, causal=True, dropout=0.3))


NETWORKS = {"dropped": Dropped, "heads": Heads}


WAYS = [("torch", 40), ("torch", 2**20), ("interpret", 2**20)]


@pytest.mark.parametrize("backend, tile", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_reference(name, backend, tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    net = NETWORKS[name]().double()
    models = [gn.compile(net, backend=b, recompute=True) for b in ("reference", backend)]
    given = inputs(models[0], 3, 3, 7)
    for lengths in ({}, ragged(models[0], given)):
        found = []
        for model in models:
            torch.manual_seed(5)
            with by_counter():
                found.append(results(model, given, lengths)[0])
        assert_same(*found, 1e-12)
    text = models[1].explain()
    assert "drawn again from a seed at each read: " in text and "stored: " not in text


def test_torch_and_kernels_draw_the_same_values():
    for number in (5, 2**62 + 12345, 2**63 - 2):
        seed = torch.tensor([number])
        whole = random_tensor(seed, "dropout", 0.3, (3, 7, 50), torch.float64, executor=INTERPRETER)
        at = block_positions([(1, 3, 3), (2, 5, 7), (10, 50, 50)], seed.device)
        assert torch.equal(dropout(seed, 0.3, at, torch.float64), whole[1:, 2:5, 10:])


def test_the_same_seed_gives_the_same_result(monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 64)
    model = gn.compile(Dropped(), recompute=True)
    given = inputs(model, 2, 3, 9, torch.float32)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(**given)["y"]

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


@pytest.mark.slow
def test_memory_grows_with_queries_plus_keys(monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 2**12)
    few, more = (peak(Dropped(), n, n, recompute=True) for n in (128, 256))
    assert more < 2.2 * few and more < 256 * 256 * 4
    assert peak(Dropped(), 256, 256) > 256 * 256 * 4
