"""Parametrized tensors (weight_norm, spectral_norm, orthogonal …) are parameters of the graph.

torch computes them from other parameters at each read. A compiled model computes them once per
call, outside its graph, so that torch itself runs the parametrization.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def parametrized(root: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Each parametrized tensor of a module and its submodules: its key, its module and its name."""
    for path, module in root.named_modules():
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:  # type: ignore[union-attr]
                yield f"{path}.{name}" if path else name, module, name


@contextmanager
def replaced_by_constants(root: nn.Module, known: dict[int, str]) -> Iterator[list[torch.Tensor]]:
    """While a module is traced, each parametrized tensor is one that `known` maps to its key."""
    replaced: list[tuple[Any, torch.Tensor]] = []
    try:
        for key, module, name in parametrized(root):
            parametrization, value = module.parametrizations[name], _current(module, name)  # type: ignore[index,union-attr]
            parametrization.__dict__["forward"] = lambda value=value: value
            known[id(value)] = key
            replaced.append((parametrization, value))
        yield [value for _, value in replaced]
    finally:
        for parametrization, value in replaced:
            parametrization.__dict__.pop("forward", None)
            known.pop(id(value), None)


def _current(module: nn.Module, name: str) -> torch.Tensor:
    """The current value of a parametrized tensor; buffers that it updates are restored."""
    parametrization: Any = module.parametrizations[name]  # type: ignore[index,union-attr]
    before = [(b, b.clone()) for b in parametrization.buffers()]
    with torch.no_grad():
        value = parametrization().detach().clone()
        for buffer, was in before:
            buffer.copy_(was)
    return value
