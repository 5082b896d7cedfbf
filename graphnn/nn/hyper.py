"""A module whose weights are computed by another network."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from graphnn.nn.standalone import no_sizes
from graphnn.nn.types import Value


class Hyper(nn.Module):
    """`module` with weights w(z) = A z + b, a linear function of a value z.

    If `module` is an `nn.Linear`, compiled alone it takes `x` (batch, time, in_features) and `z`
    (batch, time, size). Static and dynamic hypernetworks (Ha et al. 2016, arXiv:1609.09106) use the
    same code. If z does not vary over an axis, the weights are computed once per example; if it
    varies over time, at every step. b starts as the weights of `module`, and A starts small.

        self.map = gn.nn.Hyper(nn.Linear(28, 64), 8)
        y = self.map(x, z=self.net(u))

    Parameters
    ----------
    module : any torch module; its parameters serve only as initial values
    size : width of z
    """

    def __init__(self, module: nn.Module, size: int):
        super().__init__()
        start = nn.utils.parameters_to_vector(module.parameters()).detach()
        self.weights = nn.Linear(size, start.numel()).to(start)
        nn.init.normal_(self.weights.weight, std=0.1 / (start.numel() * size) ** 0.5)
        with torch.no_grad():
            self.weights.bias.copy_(start)
        # in a tuple, torch registers neither the module nor its parameters
        self._template = (_on_meta(copy.deepcopy(module)),)

    def graph(self, g: Any) -> None:
        """Inputs `x` (the input size of the module,) and `z` (size,) over time, output `y`."""
        module = self._template[0]
        size = getattr(module, "in_features", getattr(module, "input_size", None))
        if size is None:
            no_sizes(self, ("x", "z=z"))
        x = g.input("x", size, "time")
        g.output("y", self(x, z=g.input("z", self.weights.in_features, "time")))

    def forward(self, *args: Any, z: Value, **kwargs: Any) -> Any:
        """The result of `module(*args, **kwargs)` with the weights w(z); z has shape (size,)."""
        module = self._template[0]
        places = list(module.parameters())
        parts = self.weights(z).split([p.numel() for p in places])
        values = {id(p): part.reshape(p.shape) for p, part in zip(places, parts)}
        with _filled(module, values):
            return module(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Set training or evaluation mode, also for the module whose weights are computed."""
        self._template[0].train(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"{self._template[0]}, {self.weights.in_features}"


def _put(module: nn.Module, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._parameters[last] = value


def _on_meta(module: nn.Module) -> nn.Module:
    """The module with meta parameters; a parameter that is used twice stays one."""
    named = dict(module.named_parameters(remove_duplicate=False))
    shapes = {id(p): nn.Parameter(p.detach().to("meta")) for p in named.values()}
    _put(module, {name: shapes[id(p)] for name, p in named.items()})
    return module


@contextmanager
def _filled(module: nn.Module, values: Mapping[int, Any]) -> Iterator[None]:
    """The module with its parameters replaced by values, by the identity of the parameter."""
    before = dict(module.named_parameters(remove_duplicate=False))
    _put(module, {name: values[id(p)] for name, p in before.items()})
    try:
        yield
    finally:
        _put(module, before)
