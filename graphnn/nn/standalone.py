"""A library module as a network of its own, so that `gn.compile`, `draw` and the command line take
it: its inputs are of the sizes that it was made with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from graphnn.errors import GraphError

WORDS = torch.int64


def alone(module: nn.Module, g: Any, *inputs: Any) -> None:
    """Draw `y = module(*inputs)` on a graph. Each input is (name, shape, axes) or has a dtype
    besides."""
    values = [g.input(name, shape, over, *kind) for name, shape, over, *kind in inputs]
    g.output("y", module(*values))


def no_sizes(module: nn.Module, wanted: Iterable[str] = ("x",)) -> None:
    """Raise the error of a module that works on values of any size."""
    name = type(module).__name__
    raise GraphError(
        f"{name} cannot be compiled alone: it does not say the sizes of what it is called on",
        got=repr(module),
        wanted="a module of yours that declares inputs and calls it",
        fix=f"in graph(self, g): y = self.{name.lower()}({', '.join(wanted)})",
    )
