"""Reshapes, slices, joins, flips and strides in kernels, against the definition in float64.

A value is a flat vector in tiles; which tile an element lies in follows from index maps. A map that
is wrong gives numbers of other elements, and no error.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import graphnn as gn
from tests.backends.triton.places import INTERPRET, ORDER
from tests.networks import index_chains

Inputs = dict[str, torch.Tensor]
SEEDS = range(12)


def results(build: Callable[[], gn.Graph], inputs: Inputs, **options: object) -> Inputs:
    """The outputs and all gradients of a network."""
    model = gn.compile(build(), **options).double()  # type: ignore[arg-type]
    found = model(**inputs)
    made = found if isinstance(found, dict) else {"y": found}
    wanted = dict(inputs) | dict(model.named_parameters())
    loss = sum(y.square().sum() for y in made.values())
    grads = torch.autograd.grad(loss, [*wanted.values()], allow_unused=True)
    zero = (torch.zeros_like(w) if g is None else g for w, g in zip(wanted.values(), grads))
    return made | dict(zip((f"gradient of {n}" for n in wanted), zero))


def compare(build: Callable[[], gn.Graph], shapes: dict[str, tuple[int, ...]], strategy: str):
    torch.manual_seed(1)
    inputs = {n: torch.randn(s).double().requires_grad_() for n, s in shapes.items()}
    got = results(build, inputs, backend="interpret", skip=INTERPRET.skip(strategy))
    want = results(build, inputs, backend="reference")
    for name, w in want.items():
        torch.testing.assert_close(got[name], w, rtol=1e-9, atol=1e-11)


def cut_in_a_row(opaque: bool) -> gn.Graph:
    """A flattened outer product of three rows, cut after the second element of the second row."""
    torch.manual_seed(1)
    g = gn.Graph("g")
    x = g.input("x", (3,), over="time")
    w, v = g.parameter("w", torch.randn(2, 5)), g.parameter("v", torch.randn(3, 2))
    a, b = g.state("a", (3,)), g.state("b", (3,))
    rows = torch.outer(a, b).reshape(-1)[:5]
    n = torch.tanh(v @ torch.nn.functional.linear(rows, w) + x + rows.logsumexp(0))
    n = n + 0.1 * torch.hypot(x, n) if opaque else n  # no kernel computes it: step by step
    a.next, b.next = n, torch.sin(n)
    g.output("y", n)
    return g


@pytest.mark.parametrize("opaque", [False, True])
@pytest.mark.parametrize("strategy", ORDER)
def test_a_flattened_outer_product_that_is_cut_in_a_row(strategy, opaque):
    compare(lambda: cut_in_a_row(opaque), {"x": (2, 6, 3)}, strategy)


@pytest.mark.parametrize("strategy", ORDER)
@pytest.mark.parametrize("seed", SEEDS)
def test_random_chains_in_loops(seed, strategy):
    compare(lambda: index_chains.loop(seed), {"x": (2, 4, 3)}, strategy)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_chains_in_scores(seed):
    inputs = gn.compile(index_chains.attention(seed), backend="reference").ir
    (q,), (k,) = (n.shape for n in inputs if n.op == "input")
    shapes = {"q": (2, 3, q), "k": (2, 5, k)}
    compare(lambda: index_chains.attention(seed), shapes, "resident")
