"""Matmuls on a CPU equal torch's own: each layout of a weight, results in pooled memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from graphnn.backends.torch.runtime.linear import linear
from graphnn.backends.torch.runtime.recurrent_linear import (
    RecurrentLinear,
    RowBlocks,
    recurrent_linear,
)

# (rows, in, out): small, few rows, blocks of rows per thread, MKL's own layout
SHAPES = [(3, 5, 7), (2, 512, 1024), (64, 256, 512), (64, 70, 30), (16, 512, 1024), (16, 1024, 512)]


@pytest.mark.parametrize("steps", [1, 40])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("strided", [False, True])
def test_a_weight_used_at_every_step(rows, inputs, outputs, steps, strided):
    torch.manual_seed(0)
    w = torch.randn(outputs, inputs)
    w = w.t().contiguous().t() if strided else w
    x = torch.randn(rows, 2 * inputs)[:, :inputs] if strided else torch.randn(rows, inputs)
    c, before = torch.randn(rows, outputs), torch.randn(rows, outputs)
    exact = x.double() @ w.double().t()
    made = recurrent_linear(w, steps, rows)
    for method, extra in (("multiply", 0), ("multiply_add", c), ("accumulate", before)):
        out = before.clone()
        getattr(made, method)(*((out, c, x) if method == "multiply_add" else (out, x)))
        # torch's own matmul sums in another order for each layout of the weight
        layouts = (w.t(), w.t().contiguous())
        own = max((x @ wt + extra - (exact + extra)).abs().max() for wt in layouts)
        assert (out - (exact + extra)).abs().max() <= 2 * own


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch is built without MKL")
@pytest.mark.parametrize("strided", [False, True])
def test_each_thread_multiplies_its_own_rows(monkeypatch, strided):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    w, x = torch.randn(40, 30), torch.randn(51, 30)
    made = recurrent_linear(w, 100, 51)
    assert type(made) is RowBlocks and type(recurrent_linear(w, 100, 50)) is RecurrentLinear
    out = torch.zeros(51, 80)[:, ::2] if strided else torch.zeros(51, 40)
    made.multiply(out, x)
    made.accumulate(out, x)
    torch.testing.assert_close(out, 2 * x @ w.t())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_a_large_linear_map_and_its_derivatives(bias, order):
    torch.manual_seed(0)
    x = torch.randn(40, 60, 33, dtype=torch.float64, requires_grad=True)
    w = torch.randn(65, 33, dtype=torch.float64, requires_grad=True)
    b = torch.randn(65, dtype=torch.float64, requires_grad=True) if bias else None
    leaves = [v for v in (x, w, b) if v is not None]
    found, wanted = (f(x.permute(order), w, b) for f in (linear, F.linear))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    ours, theirs = (
        torch.autograd.grad(y.square().mean(), leaves, create_graph=True) for y in (found, wanted)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    second = [torch.autograd.grad(sum(g.sin().sum() for g in gs), leaves) for gs in (ours, theirs)]
    torch.testing.assert_close(*second, rtol=1e-10, atol=1e-10)


def test_a_referenced_result_is_not_overwritten():
    x, w = torch.randn(2000, 64), torch.randn(64, 64)
    first = linear(x, w)
    kept = first.clone()
    second = linear(-x, w)
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, -kept)


def test_linear_under_torch_func_and_autocast():
    x, w = torch.randn(2000, 64), torch.randn(64, 64)
    torch.testing.assert_close(torch.vmap(lambda r: linear(r, w))(x[None])[0], F.linear(x, w))
    slope = torch.func.grad(lambda v: linear(x, v).sum())(w)
    torch.testing.assert_close(slope, x.sum(0).expand(64, 64), rtol=1e-3, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, w).dtype == torch.bfloat16
