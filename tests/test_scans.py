"""The scan over an axis: both ways of running it, and its first and second derivatives."""

import pytest
import torch

from graphnn.backends.torch.scans import in_order, in_parallel, linear_scan


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
