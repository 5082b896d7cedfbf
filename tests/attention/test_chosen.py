"""Look-ups of the k best slots: chosen exactly, tile by tile, with gradients to these alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.torch import chunks
from graphnn.backends.torch.chosen import largest
from tests.graphs import assert_same, results


class Slots(nn.Module):
    """Keys of small whole numbers, so that many match equally well."""

    def __init__(self, slots: int, top: int):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(slots, 8).round())
        self.values = nn.Parameter(torch.randn(slots, 8))
        self.top = top

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (8,), over="time")
        g.axis("slot", len(self.keys))
        keys, values = gn.along(self.keys, "slot"), gn.along(self.values, "slot")
        g.output("y", gn.lookup(q, keys, values, topk=self.top, sharpness=0.3))


class Heard(nn.Module):
    """A memory of each example's own, of its own length."""

    def __init__(self, top: int):
        super().__init__()
        self.map, self.top = nn.Linear(8, 8), top

    def graph(self, g: gn.Graph) -> None:
        q, m = g.input("q", (8,), over="time"), g.input("m", (8,), over="source")
        g.output("y", gn.lookup(self.map(q), m, m, over="source", topk=self.top))


@pytest.mark.parametrize("tile", [2**20, 16])
@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize("net", [Slots(40, 5), Slots(3, 5), Slots(9, 1), Heard(3)], ids=str)
def test_equals_the_reference(net, backend, tile, monkeypatch):
    monkeypatch.setattr(chunks, "TILE", tile)
    net = net.double()
    made = torch.Generator().manual_seed(0)
    given = {"q": torch.randn(3, 4, 8, generator=made, dtype=torch.float64).round()}
    lengths = {"time": torch.tensor([4, 0, 2])}
    if isinstance(net, Heard):
        given["m"] = torch.randn(3, 9, 8, generator=made, dtype=torch.float64)
        lengths["source"] = torch.tensor([9, 2, 0])
    given = {k: v.requires_grad_() for k, v in given.items()}
    for short in ({}, lengths):
        models = [gn.compile(net, backend=b) for b in ("reference", backend)]
        assert_same(*(results(m, given, short)[0] for m in models), 1e-12)
    text = models[1].explain()
    assert f"the {net.top} best of" in text and "as large as the weights" not in text


def test_gradients_go_to_what_was_chosen_alone():
    net = Slots(40, 5)
    q = torch.randn(1, 1, 8)
    gn.compile(net)(q=q).sum().backward()
    touched = [p.grad.any(-1).sum() for p in net.parameters()]
    assert touched == [5, 5]


def test_of_equals_the_first_are_chosen():
    x = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0], [0.0] * 6, [float("-inf")] * 6])
    assert largest(x, 3).tolist() == [[1, 2, 3], [0, 1, 2], [0, 1, 2]]
    made = torch.Generator().manual_seed(0)
    y = torch.randint(-3, 4, (50, 33), generator=made).float()
    for k in (1, 7, 33):
        order = torch.argsort(y, dim=-1, descending=True, stable=True)[:, :k]
        assert torch.equal(largest(y, k), order.sort(-1).values)
