"""A `torch.autograd.Function` keeps its own backward, in loops and outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn import errors
from tests.tracing.eager import BACKENDS, Cell, agree

Function: Any = torch.autograd.Function


class Spike(Function):
    """A step with a smooth surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, v: Any) -> Any:
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        (v,) = ctx.saved_tensors
        return flow / (1 + 10 * v.abs()) ** 2


class Reversal(Function):
    @staticmethod
    def forward(ctx: Any, x: Any, scale: float) -> Any:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        return -ctx.scale * flow, None


class Mapped(Function):
    """A linear map whose weight gradient is half the outer product."""

    @staticmethod
    def forward(x: Any, weight: Any) -> Any:
        return torch.nn.functional.linear(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        x, weight = ctx.saved_tensors
        to_weight = flow.reshape(-1, flow.shape[-1]).mT @ x.reshape(-1, x.shape[-1])
        return flow @ weight, 0.5 * to_weight


class Both(Function):
    """Two results whose backward is not linear in both gradients."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        s, c = torch.sin(x), torch.cos(x)
        ctx.save_for_backward(s, c)
        return s, c

    @staticmethod
    def backward(ctx: Any, a: Any, b: Any) -> Any:
        s, c = ctx.saved_tensors
        return torch.tanh(a * c) - torch.tanh(b * s)


class Flagged(Function):
    """A result that is marked as not differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        large = x * 3
        ctx.mark_non_differentiable(large)
        return x * 2, large

    @staticmethod
    def backward(ctx: Any, flow: Any, _: Any) -> Any:
        assert ctx.needs_input_grad[0]
        return flow * 5


class Once(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return torch.round(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, flow: Any) -> Any:
        return flow


def spiking(self: Any, x: Any, h: Any) -> Any:
    z = Spike.apply(h - 0.3)
    after = 0.9 * h * (1 - z) + self.a(x)
    return Spike.apply(after - 0.3), after


def reversed_(self: Any, x: Any, h: Any) -> Any:
    y = torch.tanh(self.a(x) + Reversal.apply(h, 0.7))
    return y, y


def mapped(self: Any, x: Any, h: Any) -> Any:
    y = torch.tanh(Mapped.apply(x, self.a.weight) + Mapped.apply(h, self.b.weight))
    return y, y


def both(self: Any, x: Any, h: Any) -> Any:
    s, c = Both.apply(self.a(x) + h)
    return s * c + s, torch.tanh(c)


def first_alone(self: Any, x: Any, h: Any) -> Any:
    s, _ = Both.apply(self.a(x) + h)
    return s, torch.tanh(s)


def flagged(self: Any, x: Any, h: Any) -> Any:
    y, large = Flagged.apply(self.a(x) + h)
    return y * large, torch.tanh(y)


def once(self: Any, x: Any, h: Any) -> Any:
    y = Once.apply(self.a(x) * 3 + h)
    return y, torch.tanh(y)


def quantised(self: Any, x: Any, h: Any) -> Any:
    weight = Once.apply(self.a.weight * 4) / 4
    y = torch.tanh(torch.nn.functional.linear(h, weight) + x)
    return y, y


RUNS = [spiking, reversed_, mapped, both, first_alone, flagged, once, quantised]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", RUNS)
def test_its_own_backward_in_a_loop(run: Callable[..., Any], backend: str) -> None:
    torch.manual_seed(0)
    agree(Cell(run, a=nn.Linear(3, 3), b=nn.Linear(3, 3)), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", RUNS)
def test_its_own_backward_outside_loops(run: Callable[..., Any], backend: str) -> None:
    torch.manual_seed(0)

    def outside(self: Any, x: Any, h: Any) -> Any:
        return run(self, x, 0.5 * x)[0], h

    agree(Cell(outside, a=nn.Linear(3, 3), b=nn.Linear(3, 3)), backend)


def test_its_loop_is_a_kernel() -> None:
    model = gn.compile(Cell(spiking, a=nn.Linear(3, 3)), backend="interpret")
    assert "step by step" not in model.explain() and "@triton.jit" in model.source()


def test_a_second_derivative_outside_loops() -> None:
    class Cubed(Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, flow: Any) -> Any:
            (x,) = ctx.saved_tensors
            return 3 * x**2 * flow

    model = gn.compile(Cell(lambda self, x, h: (Cubed.apply(x), h)))
    x = torch.randn(1, 2, 3, requires_grad=True)
    (first,) = torch.autograd.grad(model(x=x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 6 * x)


class Dirty(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        return flow


class Misshapen(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        return torch.cat([flow, flow])


class Scalar(Misshapen):
    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        return flow.sum()


class Nones(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(False)
        return x * 1, x * 2

    @staticmethod
    def backward(ctx: Any, a: Any, b: Any) -> Any:
        return a if b is None else a + 2 * b + 1


class Unmaterialised(Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.set_materialize_grads(False)
        return x * 1

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        return None if flow is None else 3 * flow


def test_one_result_needs_no_zeros() -> None:
    agree(
        Cell(lambda self, x, h: (Unmaterialised.apply(self.a(x) + h), x), a=nn.Linear(3, 3)),
        "torch",
    )


def test_torch_too_refuses_a_gradient_that_is_smaller_than_its_input() -> None:
    x = torch.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="invalid gradient"):
        Scalar.apply(x).sum().backward()


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (Dirty, "in place"),
        (Misshapen, "shape"),
        (Scalar, "shape"),
        (Nones, r"'Nones'(?s:.*)set_materialize_grads"),
    ],
)
def test_unsupported_autograd_functions_are_refused(function: Any, says: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=says) as caught:
        gn.compile(Cell(lambda self, x, h: (function.apply(x), h)))
    assert "test_autograd_function.py" in str(caught.value)
