"""A module whose weights another network computes."""

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
    """`module` with weights w(z) = A z + b, a linear function of a value z that a network gives.

    Compiled alone, of an `nn.Linear`, it takes `x` (batch, time, in_features) and `z` (batch, time,
    size). Static or dynamic hypernetworks (Ha et al. 2016, arXiv:1609.09106) are the same code:
    where z varies along no axis the weights are computed once for each example; where it varies in
    time, at every step. b starts as the weights that `module` has, A small beside them.

        self.map = gn.nn.Hyper(nn.Linear(28, 64), 8)
        y = self.map(x, z=self.net(u))

    Parameters
    ----------
    module : any torch module, called on values; its own parameters serve only as the start
    size : width of z
    """

    def __init__(self, module: nn.Module, size: int):
        super().__init__()
        start = nn.utils.parameters_to_vector(module.parameters()).detach()
        self.weights = nn.Linear(size, start.numel()).to(start)
        nn.init.normal_(self.weights.weight, std=0.1 / (start.numel() * size) ** 0.5)
        with torch.no_grad():
            self.weights.bias.copy_(start)
        # a form to be filled: in a tuple, torch does not register it and its parameters
        self._form = (_without_numbers(copy.deepcopy(module)),)

    def graph(self, g: Any) -> None:
        """Inputs `x`, of the size that the module says, and `z` (size,) over time, output `y`."""
        module = self._form[0]
        size = getattr(module, "in_features", getattr(module, "input_size", None))
        if size is None:
            no_sizes(self, ("x", "z=z"))
        x = g.input("x", size, "time")
        g.output("y", self(x, z=g.input("z", self.weights.in_features, "time")))

    def forward(self, *args: Any, z: Value, **kwargs: Any) -> Any:
        """What `module(*args, **kwargs)` gives with the weights w(z); z is of shape (size,)."""
        module = self._form[0]
        places = list(module.parameters())
        parts = self.weights(z).split([p.numel() for p in places])
        values = {id(p): part.reshape(p.shape) for p, part in zip(places, parts)}
        with _filled(module, values):
            return module(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode, of the module whose weights are computed too."""
        self._form[0].train(mode)
        return super().train(mode)

    def extra_repr(self) -> str:
        return f"{self._form[0]}, {self.weights.in_features}"


def _put(module: nn.Module, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        path, _, last = name.rpartition(".")
        module.get_submodule(path)._parameters[last] = value


def _without_numbers(module: nn.Module) -> nn.Module:
    """The module with parameters that are shapes alone; those it uses twice stay one."""
    named = dict(module.named_parameters(remove_duplicate=False))
    shapes = {id(p): nn.Parameter(p.detach().to("meta")) for p in named.values()}
    _put(module, {name: shapes[id(p)] for name, p in named.items()})
    return module


@contextmanager
def _filled(module: nn.Module, values: Mapping[int, Any]) -> Iterator[None]:
    """The module with values in the place of its parameters, by their identity."""
    before = dict(module.named_parameters(remove_duplicate=False))
    _put(module, {name: values[id(p)] for name, p in before.items()})
    try:
        yield
    finally:
        _put(module, before)
