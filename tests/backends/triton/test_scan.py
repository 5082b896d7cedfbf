"""The scan kernels as a torch operator: against the torch scan, derived, autocast, compiled."""

import pytest
import torch

from graphnn.backends.torch.runtime.scan import scan as torch_scan
from graphnn.backends.triton.scan import scan, scan_kernel, scan_kernel_backward


def numbers(time, *sizes, dtype=torch.float64, device="cpu"):
    draw = torch.Generator().manual_seed(time)
    shapes = (time, *sizes), (time, *sizes), sizes
    made = [torch.randn(s, dtype=torch.float64, generator=draw) for s in shapes]
    return [x.to(device, dtype).requires_grad_() for x in made]


def results(function, inputs):
    """A result and the gradients of a sum of its squares."""
    z = function(*inputs)
    return z, *torch.autograd.grad(z.square().sum(), inputs)


def agree(function, other, inputs):
    for got, wanted in zip(results(function, inputs), results(other, inputs)):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("d", [0, 1, -1])
@pytest.mark.parametrize("reverse", [False, True])
def test_agrees_with_the_torch_scan_along_any_dimension(d, reverse):
    a, b, _ = numbers(3, 4, 5)
    start = torch.randn(b.movedim(d, 0).shape[1:], dtype=torch.float64, requires_grad=True)
    agree(
        lambda *x: scan(*x, d, reverse, "interpret"),
        lambda *x: torch_scan(*x, d, reverse),
        [a, b, start],
    )


def test_start_may_be_a_number_or_lack_dimensions():
    a, b, start = numbers(3, 2, 4)
    for first in (0.0, 2, start[0].detach(), start[0, 0].detach().float()):
        got, wanted = scan(a, b, first, 0, False, "interpret"), torch_scan(a, b, first, 0, False)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reverse", [False, True])
def test_first_and_second_derivatives(reverse):
    inputs = numbers(3, 2)

    def run(a, b, start):
        return scan_kernel(a, b, start, reverse, "interpret")

    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_what_torch_asks_of_an_operator():
    a, b, start = numbers(3, 2)
    torch.library.opcheck(scan_kernel, (a, b, start, True, "interpret"))
    z, g = torch.randn_like(b), torch.randn_like(b)
    torch.library.opcheck(scan_kernel_backward, (a, start, z, g, False, "interpret"))


def test_compiles_whole_for_any_length():
    compiled = torch.compile(
        lambda *x: scan(*x, 0, False, "interpret").tanh(),
        backend="aot_eager",
        fullgraph=True,
        dynamic=True,
    )
    for time in (4, 7):
        agree(compiled, lambda *x: torch_scan(*x, 0, False).tanh(), numbers(time, 2, 3))


def test_autocast_as_the_torch_scan():
    inputs = numbers(5, 3, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = scan(*inputs, 0, False, "interpret")
    wanted = torch_scan(*inputs, 0, False)
    assert (z.dtype, wanted.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(z.float(), wanted, rtol=0.02, atol=0.02)
    grads = torch.autograd.grad(z.float().sum(), inputs)
    assert [g.dtype for g in grads] == [torch.float32] * 3


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_empty(sizes):
    inputs = numbers(*sizes)
    agree(lambda *x: scan(*x, 0, False, "interpret"), lambda *x: (x[0] + x[1]) * x[2] * 0, inputs)


@pytest.mark.gpu
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1), (7, 3), (300, 4, 25), (3000, 2, 2048)])
def test_agrees_with_the_torch_scan_on_a_gpu(sizes, reverse):
    a, b, start = numbers(*sizes, device="cuda")
    inputs = [a.detach().tanh().requires_grad_(), b, start]
    agree(lambda *x: scan(*x, 0, reverse, False), lambda *x: torch_scan(*x, 0, reverse), inputs)


@pytest.mark.gpu
def test_compiles_whole_on_a_gpu():
    compiled = torch.compile(lambda *x: scan(*x, 0, False, False).tanh(), fullgraph=True)
    agree(compiled, lambda *x: torch_scan(*x, 0, False).tanh(), numbers(40, 2, 3, device="cuda"))
