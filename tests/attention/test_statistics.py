"""Weights that are read by more than weighted sums: equal to the reference, and not stored."""

from __future__ import annotations

import pytest
import torch

import graphnn as gn
from graphnn.backends.torch.operators import attention_tiles
from tests.attention.networks import inputs, ragged
from tests.attention.readers import READERS, Added
from tests.networks.equality import assert_same, results

TOLERANCE = 1e-12
# batch, queries, keys
LOGARITHMS = ("forms", "scores")
SIZES = [(2, 3, 7), (1, 1, 1), (3, 1, 9), (2, 9, 1), (0, 3, 5)]


def compare(name: str, backend: str, sizes: tuple[int, int, int], short: bool) -> gn.Compiled:
    """Compare a backend with the reference."""
    torch.manual_seed(0)
    net = READERS[name]().double()
    reference = gn.compile(net, backend="reference")
    model = gn.compile(net, backend=backend)
    given = inputs(model, *sizes)
    lengths = ragged(model, given) if short else {}
    if name in LOGARITHMS:
        # the logarithm of an empty sum is not finite
        lengths = {k: n.clamp(min=1) for k, n in lengths.items()}
    wanted, got = (results(m, given, lengths)[0] for m in (reference, model))
    assert all(v.isfinite().all() for v in wanted.values())
    assert_same(wanted, got, TOLERANCE)
    return model


@pytest.mark.parametrize("name", READERS)
def test_torch_in_one_tile(name):
    for sizes in SIZES:
        compare(name, "torch", sizes, False)


@pytest.mark.parametrize("name", [n for n in READERS if n != "naive"])
def test_torch_of_ragged_batches(name):
    """In the reference log 0 has no gradient: the literal Σ w log w is left out."""
    for sizes in SIZES[:3]:
        compare(name, "torch", sizes, True)


@pytest.mark.parametrize("tile", [20])
@pytest.mark.parametrize("name", READERS)
def test_torch_in_many_tiles(name, tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    compare(name, "torch", (2, 3, 7), name != "naive")


@pytest.mark.parametrize("name", ["masked", "forms"])
def test_kernels(name):
    model = compare(name, "interpret", (2, 3, 7), True)
    assert "falls back:" not in model.explain()


@pytest.mark.slow
@pytest.mark.parametrize("short", [False, True], ids=["full", "ragged"])
@pytest.mark.parametrize("name", READERS)
def test_all_kernels(name, short):
    for sizes in (*SIZES, (1, 35, 50)):
        model = compare(name, "interpret", sizes, short and name != "naive")
        assert "falls back:" not in model.explain()


@pytest.mark.parametrize("name", READERS)
def test_no_tensor_as_large_as_the_weights_remains(name):
    plan = gn.compile(READERS[name]()).plan
    for note in plan.notes:
        assert "stored" not in note.reason
        assert note.part is None or not note.part.stored
        if note.part is None:
            assert name == "rows" and "for the one query of 'axis_at" in note.reason
            continue
        every = {*note.part.axes, note.part.axis} - {*note.part.parts}
        wide = [n for n in plan.ir if every <= n.axes and n.op not in ("input", "attend")]
        assert not wide


def test_weights_are_stored_if_something_needs_them_whole():
    class Whole(Added):
        def read(self, w, s, k):
            return {"w": w, "entropy": gn.entropy(w, over="source")}

    text = gn.compile(Whole()).explain()
    assert "the weights are stored too, for output 'w'" in text and "reductions" not in text

    class Some(Added):
        """Weights that stay in tiles, although their scores do not."""

        def read(self, w, s, k):
            return {"s": s, "entropy": gn.entropy(w, over="source")}

    text = gn.compile(Some()).explain()
    assert "also read by 'sum over source' at" in text and "weights over source" in text


@pytest.mark.parametrize("tile", [1, 2**20])
def test_equal_maxima_share_a_gradient(tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    net = READERS["largest"]().double()
    models = [gn.compile(net, backend=b) for b in ("reference", "torch")]
    given = inputs(models[0], 2, 3, 6)
    given["k"] = torch.cat([given["k"][:, :2]] * 3, 1).detach().requires_grad_()
    wanted, got = (results(m, given, {})[0] for m in models)
    assert (wanted["where"] < 2).all()
    assert_same(wanted, got, TOLERANCE)


@pytest.mark.parametrize("name", ["masked", "forms", "alone"])
def test_second_derivatives(name, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 8)
    net = READERS[name]().double()
    given = inputs(gn.compile(net), 2, 3, 5)

    def second(model):
        y = sum(v.square().sum() for v in model(**given).values() if v.is_floating_point())
        first = torch.autograd.grad(y, list(given.values()), create_graph=True)
        total = sum(g.square().sum() for g in first)
        return torch.autograd.grad(total, [*given.values(), *net.parameters()], allow_unused=True)

    wanted, got = (second(gn.compile(net, backend=b)) for b in ("reference", "torch"))
    for a, b in zip(wanted, got, strict=True):
        a, b = (torch.zeros(()) if x is None else x for x in (a, b))
        torch.testing.assert_close(b.broadcast_to(a.shape), a, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("tile, name", [(64, "masked"), (2**20, "forms")])
def test_in_low_precision_as_precise_as_torch(tile, name, monkeypatch):
    """At most twice the error of torch; values near zero are compared to the largest."""
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    torch.manual_seed(0)
    net = READERS[name]().to(torch.bfloat16).double()
    given = inputs(gn.compile(net), 2, 7, 40)
    given = {k: v.bfloat16().double().detach() for k, v in given.items()}
    wanted = gn.compile(net, backend="reference")(**given)
    low = {k: v.bfloat16() for k, v in given.items()}
    net = net.to(torch.bfloat16)
    got, eager = (gn.compile(net, skip=s)(**low) for s in ((), ("attend",)))
    for key, a in wanted.items():
        b, c = got[key], eager[key]
        assert b.dtype == c.dtype
        if key != "where":
            error, allowed = ((x.double() - a).norm() for x in (b, c))
            assert error <= 2 * allowed + 2**-8 * a.norm(), key


@pytest.mark.slow
@pytest.mark.parametrize("tile", [64, 2**20])
def test_torch_compile(tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    model = gn.compile(READERS["masked"]())
    traced = torch.compile(model, fullgraph=True, backend="aot_eager")
    for n in (5, 9):
        given = inputs(model, 2, 3, n, torch.float32)
        leaves = [*given.values(), *model.parameters()]
        found = []
        for m in (model, traced):
            made = m(**given)
            total = sum(v.square().sum() for v in made.values() if v.is_floating_point())
            found.append([made, torch.autograd.grad(total, leaves)])
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("tile", [64, 2**20])
def test_autocast(tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    model = gn.compile(READERS["masked"]())
    given = inputs(model, 2, 3, 9, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        made = model(**given)
    sum(v.float().sum() for v in made.values() if v.is_floating_point()).backward()
    for key, v in model(**given).items():
        if key != "where":
            torch.testing.assert_close(made[key].float(), v, atol=0.05, rtol=0.05)
