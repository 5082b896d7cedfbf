"""A network that is written once and run twice: as a graph, and eagerly on tensors.

`Eager` replaces the graph: `input` returns the tensor of one example at one position, `state` a
tensor for the next step. It is plain torch, and the reference for the code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn

BACKENDS = ("torch", "interpret", "reference")


class _State:
    """A state at one step, and its next value."""

    def __init__(self, now: Tensor):
        self.now = now
        self.next: Any = None


class Cell(nn.Module):
    """A step `run(self, x, h)` that returns (output, next state), as a graph and as a loop."""

    def __init__(self, run: Callable[..., Any], width: int = 3, **modules: nn.Module):
        super().__init__()
        self.run, self.width = run, width
        for name, module in modules.items():
            self.add_module(name, module)

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (self.width,), over="time"), g.state("h", (self.width,))
        y, after = self.run(self, x, h)
        h.next = after
        g.output("y", y)

    def eager(self, x: Tensor) -> Tensor:
        """The same step, one example and one position at a time."""
        rows = []
        for example in x:
            h, ys = example.new_zeros(self.width), []
            for position in example:
                # a step may change its tensors in place
                y, h = self.run(self, position.clone(), h)
                ys.append(y)
            rows.append(torch.stack(ys))
        return torch.stack(rows)


def leaves(net: nn.Module, x: Tensor) -> list[Tensor]:
    return [x, *net.parameters()]


def results(net: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> list[Any]:
    """An output, and its gradients to the input and every parameter; None if there is none."""
    y = run(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    if not y.requires_grad:
        return [y]
    return [y, *torch.autograd.grad((y * weights).sum(), leaves(net, x), allow_unused=True)]


def agree(net: Cell, backend: str, x: Tensor | None = None) -> None:
    """The graph and the eager code give the same results and gradients."""
    net = net.double()
    if x is None:
        x = torch.randn(
            2, 4, net.width, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
        )
    x = x.clone().requires_grad_()
    want = results(net, net.eager, x)
    model = gn.compile(net, backend=backend)
    got = results(net, lambda t: model(x=t), x)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        if w is None or g is None:
            # a parameter that no output depends on has no gradient, or zeros
            assert g is None or not g.any(), "a gradient where torch has none"
            assert w is None or not w.any(), "no gradient where torch has one"
        else:
            torch.testing.assert_close(g, w, rtol=1e-9, atol=1e-10)
