"""Loops over two axes equal a plain torch loop: random cells and earlier failures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn
from tests.networks import two_axes

BACKENDS = ["torch", "interpret", "reference"]


def assert_equals_eager(seed: int, backend: str) -> None:
    """Checks that outputs and gradients of a random cell equal those of the plain loop."""
    cell = two_axes.drawn(seed)
    weights = two_axes.parameters(cell, seed)
    torch.manual_seed(seed)
    batch, units = (1, 2, 3)[seed % 3], (3, 2, 1, 3)[seed % 4]
    x = torch.randn(batch, 4, units, 2).double().requires_grad_()
    y = torch.randn(batch, 4, 3).double().requires_grad_()
    w = [v.clone().requires_grad_() for v in weights]
    want = two_axes.eager(cell, w, x, y)
    model = gn.compile(two_axes.graph(cell, weights), backend=backend).double()
    found = model(x=x, y=y)
    got = found if isinstance(found, dict) else dict(zip(want, [found]))
    named = dict(model.named_parameters())
    ours = [x, y, *(named[f"w{k}"] for k in range(len(w)))]
    torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-8)
    flows = [_gradients(outs, given) for outs, given in ((got, ours), (want, [x, y, *w]))]
    torch.testing.assert_close(flows[0], flows[1], rtol=1e-7, atol=1e-7)


def _gradients(outs: dict[str, torch.Tensor], given: list[torch.Tensor]) -> list[torch.Tensor]:
    total = sum((v * torch.linspace(-1, 1, v.numel()).view_as(v)).sum() for v in outs.values())
    tied = total + 0 * sum(v.sum() for v in given)
    return list(torch.autograd.grad(tied, given))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("first", range(0, 12, 4))
def test_random_loops_over_two_axes_equal_eager(first, backend):
    for seed in range(first, first + 4):
        assert_equals_eager(seed, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "interpret"])
@pytest.mark.parametrize("first", range(12, 212, 20))
def test_more_random_loops_over_two_axes_equal_eager(first, backend):
    for seed in range(first, first + 20):
        assert_equals_eager(seed, backend)


def concatenating_graph(order: str) -> gn.Graph:
    """A graph that concatenates a state twice, with values over one axis and over two."""
    g = gn.Graph("joined")
    x = g.input("x", (1,), over=("time", "unit"))
    z1, z3 = g.state("z1", (3,)), g.state("z3", (1,), along="unit")
    z0 = g.state("z0", (4,), along="unit")
    generator = torch.Generator().manual_seed(0)
    w0, w1, w3 = (
        g.parameter(f"w{k}", torch.randn(*s, generator=generator))
        for k, s in (("0", (4, 4)), ("1", (3, 4)), ("3", (1, 4)))
    )
    top = gn.sum(z3, "unit")

    def narrow() -> None:
        z1.next = torch.tanh(F.linear(torch.cat([top, z1]), w1) + 0.1)

    def wide() -> None:
        z0.next = torch.tanh(F.linear(torch.cat([z3, z1]), w0))

    for step in (narrow, wide) if order == "narrow first" else (wide, narrow):
        step()
    z3.next = torch.tanh(F.linear(z0, w3) + x)
    g.output("y", z3.next)
    return g


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["narrow first", "wide first"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_state_in_two_concatenations_equals_eager(batch, order, backend):
    torch.manual_seed(1)
    x = torch.randn(batch, 4, 3, 1).double().requires_grad_()
    model = gn.compile(concatenating_graph(order), backend=backend).double()
    w0, w1, w3 = (dict(model.named_parameters())[f"w{k}"] for k in "013")
    z0, z1, z3 = x.new_zeros(batch, 3, 4), x.new_zeros(batch, 3), x.new_zeros(batch, 3, 1)
    steps = []
    for t in range(4):
        above = torch.cat([z3, z1[:, None].expand(-1, 3, -1)], -1)
        below = torch.cat([z3.sum(1), z1], -1)
        z0, z1, z3 = (
            torch.tanh(above @ w0.t()),
            torch.tanh(below @ w1.t() + 0.1),
            torch.tanh(z0 @ w3.t() + x[:, t]),
        )
        steps.append(z3)
    want = torch.stack(steps, 1)
    got = model(x=x)
    given = [x, w0, w1, w3]
    torch.testing.assert_close(got, want)
    flows = [torch.autograd.grad(v.square().sum(), given) for v in (got, want)]
    torch.testing.assert_close(*flows)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("init", [None, 0.5])
def test_a_scan_with_factors_that_lack_a_state_axis_equals_eager(init, backend):
    g = gn.Graph("held")
    x = g.input("x", (2,), over=("time", "unit"), dtype=torch.float64)
    a = torch.sigmoid(gn.sum(x, "unit"))
    z = g.state("z", (2,), along="unit", init=init, dtype=torch.float64)
    z.next = a * z + (1 - a) * 0.3
    g.output("all", z.next)
    g.output("last", gn.last(z.next, "time"))
    g.output("of units", gn.sum(z.next, "unit"))
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, 2).double().requires_grad_()
    a, now, steps = torch.sigmoid(x.sum(2)), x.new_full((2, 3, 2), init or 0.0), []
    for t in range(5):
        now = a[:, t, None] * now + (1 - a[:, t, None]) * 0.3
        steps.append(now)
    line = torch.stack(steps, 1)
    want = {"all": line, "last": line[:, -1], "of units": line.sum(2)}
    got, final = gn.compile(g, backend=backend)(x=x, return_state=True)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(final["z"], line[:, -1])
    flows = [torch.autograd.grad(sum(v.square().sum() for v in o.values()), x) for o in (got, want)]
    torch.testing.assert_close(*flows)


class SlicedOuterProduct(nn.Module):
    """A cell with an outer product, flattened and sliced in the middle of a row."""

    def __init__(self, opaque: bool) -> None:
        super().__init__()
        self.w, self.opaque = nn.Parameter(torch.linspace(-1, 1, 15).view(3, 5)), opaque

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        a, b = g.state("a", (3,), init=0.5), g.state("b", (3,), init=-0.5)
        n = torch.tanh(F.linear(torch.outer(a, b).reshape(-1)[:5], self.w) + x)
        n = n + 0.1 * torch.hypot(x, n) if self.opaque else n
        a.next, b.next = n, torch.sin(n)
        g.output("y", n)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opaque", [False, True])
def test_an_outer_product_sliced_within_a_row_equals_eager(opaque, backend):
    torch.manual_seed(0)
    net, x = SlicedOuterProduct(opaque).double(), torch.randn(2, 6, 3).double().requires_grad_()
    a, b, steps = x.new_full((2, 3), 0.5), x.new_full((2, 3), -0.5), []
    for t in range(6):
        n = torch.tanh((a[:, :, None] * b[:, None]).flatten(1)[:, :5] @ net.w.t() + x[:, t])
        n = n + 0.1 * torch.hypot(x[:, t], n) if opaque else n
        a, b = n, torch.sin(n)
        steps.append(n)
    want, got = torch.stack(steps, 1), gn.compile(net, backend=backend)(x=x)
    torch.testing.assert_close(got, want)
    flows = [torch.autograd.grad(v.square().sum(), (x, net.w)) for v in (got, want)]
    torch.testing.assert_close(*flows)


class Narrow(nn.Module):
    """A cell with any number of units, including zero."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.rec, self.units = nn.Linear(6 + units, units), units

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (6,), over="time"), g.state("h", (self.units,))
        h.next = torch.tanh(self.rec(torch.cat([x, h])))
        g.output("y", h.next)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_cell_with_zero_units_has_empty_outputs_and_zero_gradients(backend):
    net, x = Narrow(0), torch.randn(2, 3, 6, requires_grad=True)
    y = gn.compile(net, backend=backend)(x=x)
    (flow,) = torch.autograd.grad(y.sum(), x)
    assert y.shape == (2, 3, 0) and torch.equal(flow, torch.zeros_like(x))


def test_a_beam_search_over_an_empty_batch_is_empty():
    model = gn.compile(gn.nn.Seq2Seq(30, 12, 16, 32))
    source = torch.zeros(0, 5, dtype=torch.int64)
    found = model.generate(source=source, start=1, stop=2, max_steps=5, beam=3)
    assert found.tokens.shape[0] == 0 and found.scores.shape == (0,)
