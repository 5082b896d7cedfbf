"""The scan over an axis: both algorithms, and its first and second derivatives."""

import pytest
import torch

import graphnn as gn
from graphnn.backends.torch.runtime.scan import in_order, in_parallel, linear_scan


def numbers(length):
    generator = torch.Generator().manual_seed(length)
    shapes = (length, 2, 3), (length, 2, 3), (2, 3)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 33])
def test_in_parallel_equals_in_order(length):
    a, b, start = numbers(length)
    ordered = in_order(a, b, start)
    torch.testing.assert_close(in_parallel(a, b, start), ordered, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_first_and_second_derivatives(reverse):
    inputs = [x.requires_grad_() for x in numbers(4)]

    def run(a, b, start):
        return linear_scan(a, b, start, reverse)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_a_sum_of_integers_is_an_integer():
    g = gn.Graph("count")
    x, n = g.input("x", (), over="time"), g.state("n", (), init=0, dtype=torch.int64)
    n.next = n + (x > 0).to(torch.int64)
    g.output("n", n.next)
    x = torch.tensor([[1.0, -1.0, 2.0]])
    for backend in ("torch", "reference"):
        found, state = gn.compile(g, backend=backend)(x=x, return_state=True)
        assert found.tolist() == [[1, 1, 2]] and found.dtype == state["n"].dtype == torch.int64
