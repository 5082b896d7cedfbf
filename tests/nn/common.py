"""Helpers for tests of library modules: a graph around a module, and comparisons of gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn

Outputs = dict[str, Tensor]
LENGTHS = {"time": torch.tensor([4, 2, 3])}


class OverTime(nn.Module):
    """A module over time that outputs `y` and every state. If `init`, initial states are inputs."""

    def __init__(self, module: nn.Module, width: int = 5, init: bool = False, final: bool = False):
        super().__init__()
        self.module, self.width, self.init, self.final = module, width, init, final

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (self.width,), over="time")
        if not isinstance(self.module, gn.nn.Recurrent):
            g.output("y", self.module(x))
            return
        sizes = self.module.state_sizes if self.init else {}
        init = {name: g.input(name, (size,)) for name, size in sizes.items()}
        y, states = self.module(x, init=init, with_states=True)
        g.output("y", y)
        for name, value in states.items():
            end = gn.first if name.endswith("reverse") else gn.last
            g.output(name, end(value, over="time") if self.final else value)


def doubles(*shape: int, seed: int = 0) -> Tensor:
    """Returns standard normal float64 values that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def randomised(module: nn.Module, seed: int = 0) -> Any:
    """Returns the module in float64 with random parameters, so that none stays zero or one."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5)
    return module


def gradients(outputs: Mapping[str, Tensor], variables: Mapping[str, Tensor]) -> Outputs:
    """Returns the gradient of a fixed random combination of all outputs by each variable."""
    total = sum(
        (v * doubles(*v.shape, seed=k).detach()).sum() for k, v in enumerate(outputs.values())
    )
    grads = torch.autograd.grad(total, list(variables.values()), allow_unused=True)
    return {
        f"d{k}": torch.zeros_like(v) if d is None else d
        for (k, v), d in zip(variables.items(), grads)
    }


def run(call: Callable[[], Any], variables: Mapping[str, Tensor]) -> Outputs:
    """Returns the outputs of a call and their gradients by the variables."""
    y = call()
    outputs = dict(y) if isinstance(y, Mapping) else {"y": y}
    return {**outputs, **gradients(outputs, variables)}


def close(
    a: Mapping[str, Tensor], b: Mapping[str, Tensor], tolerance: float, least: float = 1e-6
) -> None:
    """Asserts equal names, and differences that are small relative to each tensor's maximum.

    The maximum counts as at least `least`.
    """
    assert list(a) == list(b)
    for name in a:
        assert a[name].shape == b[name].shape, name
        scale = max(b[name].abs().max().item(), least) if b[name].numel() else 1.0
        error = (a[name] - b[name]).abs().max().item() / scale if b[name].numel() else 0.0
        assert error <= tolerance, f"{name}: relative error {error:.2e}"


def compare_backends(
    net: nn.Module, lengths: Any = None, seed: int | None = None, **inputs: Tensor
) -> Outputs:
    """Asserts that backends "torch" and "reference" agree to 1e-12. Returns the results."""
    variables = {
        **{k: v for k, v in inputs.items() if v.requires_grad},
        **dict(net.named_parameters()),
    }
    results = []
    for backend in ("torch", "reference"):
        model = gn.compile(net, backend=backend)
        if seed is not None:
            torch.manual_seed(seed)
        results.append(run(lambda m=model: m(lengths=lengths, **inputs), variables))
    close(*results, tolerance=1e-12)
    return results[0]
