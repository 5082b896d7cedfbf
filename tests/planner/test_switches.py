"""Every pass off, and recomputing on, means the same: outputs and gradients in float64."""

import pytest
import torch

import graphnn as gn
from bench.networks import NETWORKS
from graphnn.planner.plan import SWITCHABLE


def results(model, x):
    y, state = model(x=x, return_state=True)
    loss = y.square().sum() + sum(v.sum() for v in state.values())
    return [y, *state.values(), *torch.autograd.grad(loss, [x, *model.parameters()])]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("off", [*[(p,) for p in SWITCHABLE], SWITCHABLE, "recompute"])
def test_off_equals_on(name, off):
    torch.manual_seed(0)
    net = NETWORKS[name](3).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    options = {"recompute": True} if off == "recompute" else {"skip": off}
    torch.testing.assert_close(
        results(gn.compile(net, **options), x), results(gn.compile(net), x), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("narrowest", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_work_moved_into_loops(name, narrowest, monkeypatch):
    """However wide a value must be to be computed in a loop's steps, it is the same value."""
    torch.manual_seed(0)
    net = NETWORKS[name](3).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    plain = results(gn.compile(net, skip=("sink",)), x)
    monkeypatch.setattr("graphnn.planner.sink.WIDE", narrowest)
    torch.testing.assert_close(results(gn.compile(net), x), plain, rtol=1e-12, atol=1e-12)
