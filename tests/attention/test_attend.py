"""What is recognised as attention, the reasons if something is not, and its behaviour in torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.torch.operators import attention_tiles
from graphnn.planner.pipeline import Plan
from tests.attention.networks import NETWORKS, Additive, Heads, Net, Spread, inputs
from tests.networks.equality import assert_same, results


def planned(net: nn.Module) -> Plan:
    return gn.compile(net).plan


@pytest.mark.parametrize("name", NETWORKS)
def test_all_are_recognised(name):
    plan = planned(NETWORKS[name]())
    assert plan.notes and all(note.part is not None for note in plan.notes)
    # outside the attention there are no scores and nothing as large as scores times their width,
    # except biases by distance, which are looked up per query and key, and weights that are stored
    # for other reads
    if name not in ("grouped", "spread"):
        for note in plan.notes:
            spread = [n for n in plan.ir if note.part.in_tiles(n.axes) and n.op != "input"]
            assert name == "story" or not spread


@pytest.mark.parametrize("name", NETWORKS)
def test_off_equals_on(name):
    net = NETWORKS[name]().double()
    given = inputs(gn.compile(net), 2, 3, 7)
    on, off = (results(gn.compile(net, skip=s), given, {})[0] for s in ((), ("attend",)))
    assert_same(off, on, 1e-12)


def test_explain_describes_the_attention():
    text = gn.compile(Additive(), backend="interpret").explain()
    assert "attention over source at networks.py:" in text and ": in tiles" in text
    assert "forward: one kernel, rows batch x target, columns source" in text
    assert "backward: 2 kernels: by queries, by keys" in text
    assert "saved for backward: the results and one number for each of batch x target" in text
    assert "tiles of target and source" in gn.compile(Additive()).explain()
    assert "equal to torch's scaled_dot_product_attention (causal)" in gn.compile(Heads()).explain()
    text = gn.compile(Spread()).explain()
    assert "also read by 'sum over source' at" in text and "attention over source, 2" in text
    assert "weights over source at networks.py:" in text and ": reductions in tiles" in text


class Decoder(nn.Module):
    """Attention at each step of a loop."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 8)

    def graph(self, g):
        k = g.input("k", (8,), over="source")
        s = g.state("s", (8,), over="target")
        g.input("x", (), over="target")
        s.next = self.cell(gn.attend(s, k, over="source"), s)
        g.output("y", s.next)


class Given(nn.Module):
    """Scores that come from outside."""

    def graph(self, g):
        s = g.input("s", (), over=("target", "source"))
        k = g.input("k", (8,), over="source")
        g.output("y", gn.sum(gn.softmax(s, over="source") * k, over="source"))


class Alone(nn.Module):
    """Weights that no sum uses."""

    def graph(self, g):
        q, k = g.input("q", (8,), over="target"), g.input("k", (8,), over="source")
        g.output("y", gn.softmax(gn.dot(q, k), over="source"))


class Entangled(nn.Module):
    """A score per head, then one over all heads."""

    def graph(self, g):
        q, k = g.input("q", (2, 4), over="target"), g.input("k", (2, 4), over="source")
        w = gn.softmax(torch.einsum("hd,hd->h", q, k), over="source")
        g.output("y", gn.sum((w[:, None] * k).sum(0) * w.sum(), over="source"))


@pytest.mark.parametrize(
    "net, reason",
    [
        (Decoder(), None),
        (Given(), "its scores are an input"),
        (Alone(), "no sum over 'source' of values that it weights"),
        (Entangled(), "no sum over 'source'"),
    ],
)
def test_what_is_not_recognised_runs_and_has_a_reason(net, reason):
    model = gn.compile(net)
    if reason is not None:
        assert "softmax over source at test_attend.py:" in model.explain()
        assert reason in model.explain()
    else:
        assert "it is computed at each step of a loop" in model.explain()
    net = copy.deepcopy(net).double()
    made = torch.Generator().manual_seed(0)
    given = {}
    for node in model.ir:
        if node.op == "input":
            sizes = [{"target": 3, "source": 5}[a] for a in node.attrs["over"]]
            x = torch.randn(2, *sizes, *node.shape, generator=made, dtype=torch.float64)
            given[node.attrs["key"]] = x.requires_grad_()
    module = _double(type(net)) if not list(net.parameters()) else net
    wanted, got = (
        results(gn.compile(module, backend=b), given, {})[0] for b in ("reference", "torch")
    )
    assert_same(wanted, got, 1e-12)


def _double(kind: type[nn.Module]) -> nn.Module:
    """A network without weights of its own, to which a weight gives the dtype."""
    net = kind()
    net.unused = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    return net


class Made(Net):
    """Keys that are computed from the values."""

    def mixed(self, q, k):
        value = self.value(k)
        weights = gn.softmax(self.score(self.query(q), self.key(value)), over="source")
        return gn.sum(weights * value, over="source")


@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize("make", [Net, Additive, Made])
def test_second_derivatives(make, backend, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 8)
    net = make().double()
    given = inputs(gn.compile(net), 2, 3, 5)

    def second(model):
        y = model(**given)
        first = torch.autograd.grad(y.square().sum(), list(given.values()), create_graph=True)
        total = sum(g.square().sum() for g in first)
        return torch.autograd.grad(total, [*given.values(), *net.parameters()], allow_unused=True)

    wanted, got = (second(gn.compile(net, backend=b)) for b in ("reference", backend))
    for a, b in zip(wanted, got, strict=True):
        torch.testing.assert_close(
            b, torch.zeros_like(b) if a is None else a, atol=1e-10, rtol=1e-10
        )


@pytest.mark.parametrize("make", [Net, Additive])
@pytest.mark.parametrize("tile", [64, 2**20])
def test_torch_compile(make, tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    model = gn.compile(make())
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    for n in (5, 9):
        given = inputs(model, 2, 3, n, torch.float32)
        y, z = model(**given), traced(**given)
        torch.testing.assert_close(y, z)
        leaves = [*given.values(), *model.parameters()]
        a, b = (torch.autograd.grad(v.square().sum(), leaves) for v in (y, z))
        torch.testing.assert_close(a, b)


def test_autocast(monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 64)
    for make in (Net, Additive):
        model = gn.compile(make())
        given = inputs(model, 2, 3, 9, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            y = model(**given)
        y.float().sum().backward()
        torch.testing.assert_close(y.float(), model(**given), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_dropout_of_weights(backend):
    class Dropped(Additive):
        def mixed(self, q, k):
            w = gn.softmax(self.score(self.query(q), self.key(k)), over="source")
            return gn.sum(nn.functional.dropout(w, 0.5, self.training) * k, over="source")

    net = Dropped().double()
    found = []
    for b in ("reference", backend):
        model = gn.compile(net, backend=b)
        given = inputs(model, 2, 3, 7)
        torch.manual_seed(5)
        y = model(**given)
        found.append([y, *torch.autograd.grad(y.square().sum(), list(given.values()))])
    torch.testing.assert_close(*found, atol=1e-12, rtol=1e-12)
    assert "as large as the weights, and stored" in model.explain()
