"""weights: parametrized tensors (weight_norm, spectral_norm, orthogonal …) are parameters here.

torch computes them of other parameters wherever they are read. A compiled model does so once a
call, outside its graph, so that whatever a parametrization does is done by torch itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def parametrized(root: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every parametrized tensor below a module: its key, its module and its name there."""
    for path, module in root.named_modules():
        if parametrize.is_parametrized(module):
            for name in module.parametrizations:  # type: ignore[union-attr]
                yield f"{path}.{name}" if path else name, module, name


@contextmanager
def standing_in(root: nn.Module, known: dict[int, str]) -> Iterator[list[torch.Tensor]]:
    """Let every parametrized tensor be one that the graph knows by its key in `known`."""
    placed: list[tuple[Any, torch.Tensor]] = []
    try:
        for key, module, name in parametrized(root):
            held, value = module.parametrizations[name], _as_it_is(module, name)  # type: ignore[index,union-attr]
            held.__dict__["forward"] = lambda value=value: value
            known[id(value)] = key
            placed.append((held, value))
        yield [value for _, value in placed]
    finally:
        for held, value in placed:
            held.__dict__.pop("forward", None)
            known.pop(id(value), None)


def _as_it_is(module: nn.Module, name: str) -> torch.Tensor:
    """A parametrized tensor by now; what computing it changes (power iterations) is put back."""
    held: Any = module.parametrizations[name]  # type: ignore[index,union-attr]
    before = [(b, b.clone()) for b in held.buffers()]
    with torch.no_grad():
        value = held().detach().clone()
        for buffer, was in before:
            buffer.copy_(was)
    return value
