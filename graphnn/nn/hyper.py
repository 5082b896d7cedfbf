"""A module whose weights another network computes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from graphnn.nn.types import Value


class Hyper(nn.Module):
    """`module` with weights w(z) = A z + b, a linear function of a value z that a network gives.

    Static or dynamic hypernetworks (Ha et al. 2016, arXiv:1609.09106) are the same code: where z
    varies along no axis the weights are computed once for each example; where it varies in time,
    at every step. b starts as the weights that `module` has, A small beside them.

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
        self._form = (copy.deepcopy(module).to("meta"),)

    def forward(self, *args: Any, z: Value, **kwargs: Any) -> Any:
        """What `module(*args, **kwargs)` gives with the weights w(z); z is of shape (size,)."""
        module, start = self._form[0], 0
        weights: Value = self.weights(z)
        filled = {}
        for name, form in module.named_parameters():
            part = weights[start : start + form.numel()]
            filled[name], start = part.reshape(tuple(form.shape)), start + form.numel()
        with _filled(module, filled):
            return module(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"{self._form[0]}, {self.weights.in_features}"


@contextmanager
def _filled(module: nn.Module, values: dict[str, Any]) -> Iterator[None]:
    """`module` with values in the place of its parameters."""
    before = dict(module.named_parameters())

    def put(tensors: dict[str, Any]) -> None:
        for name, tensor in tensors.items():
            path, _, last = name.rpartition(".")
            module.get_submodule(path)._parameters[last] = tensor

    put(values)
    try:
        yield
    finally:
        put(before)
