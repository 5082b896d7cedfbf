"""The memory of attention grows with queries plus keys, not with their product.

Every allocation and release of torch's CPU allocator is counted, forward and backward.
"""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import graphnn as gn
from graphnn.backends.torch.operators import attention_tiles
from tests.attention.networks import Additive, Net, Slots, inputs
from tests.attention.readers import READERS


def peak(
    net: torch.nn.Module,
    queries: int,
    keys: int,
    skip: tuple[str, ...] = ("match",),
    batch: int = 1,
    recompute: bool | None = None,
) -> int:
    """Peak bytes of a forward and a backward."""
    model = gn.compile(net, skip=skip, recompute=recompute)
    given = inputs(model, batch, queries, keys, torch.float32)

    leaves = [*given.values(), *model.parameters()]

    def run() -> None:
        made = model(**given)
        made = made.values() if isinstance(made, dict) else [made]
        total = sum(v.sum() for v in made if v.is_floating_point())
        torch.autograd.grad(total, leaves, allow_unused=True)

    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    held = most = 0
    for event in sorted(seen.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("make", [lambda: Additive(16, 16), lambda: Net(16, 16)])
def test_memory_grows_with_queries_plus_keys(make, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 2**12)
    few, more, most = (peak(make(), n, n) for n in (128, 256, 512))
    # twice the length needs twice the memory, but four times if queries x keys were stored
    assert more < 2.2 * few and most < 2.2 * more
    assert peak(make(), 512, 128) < most and peak(make(), 128, 512) < most


@pytest.mark.parametrize("name", ["masked", "rows"])
def test_memory_of_other_readers_of_weights_grows_with_queries_plus_keys(name, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", 2**12)
    few, more = (peak(READERS[name](), n, n) for n in (128, 256))
    assert more < 2.2 * few
    # the matrix alone; if it is stored, it exists at least twice
    assert more < 256 * 256 * 4


def test_without_tiles_memory_grows_with_their_product():
    few, more = (peak(Additive(16, 16), n, n, ("attend",)) for n in (128, 256))
    assert more > 3 * few


def test_many_slots(monkeypatch):
    """The scores of 64 queries would need four times the memory of keys and values."""
    monkeypatch.setattr(attention_tiles, "TILE", 2**14)
    net = Slots(2**15)
    size = sum(p.numel() * p.element_size() for p in net.parameters())
    assert 4 * size == 64 * 2**15 * 4
    assert peak(net, 1, 1, batch=64) < 1.5 * size
    assert peak(net, 1, 1, ("attend",), batch=64) > 4 * size
