"""A library module as a network of its own, for `gn.compile`, `draw` and the command line.

Its inputs have the sizes that the module was constructed with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from graphnn.errors import GraphError

WORDS = torch.int64


def standalone_graph(module: nn.Module, g: Any, *inputs: Any) -> None:
    """Declare the graph `y = module(*inputs)`. Each input is (name, shape, axes[, dtype])."""
    values = [g.input(name, shape, over, *kind) for name, shape, over, *kind in inputs]
    g.output("y", module(*values))


def no_sizes(module: nn.Module, wanted: Iterable[str] = ("x",)) -> None:
    """Raise the error for a module that accepts values of any size."""
    name = type(module).__name__
    raise GraphError(
        f"{name} cannot be compiled alone: it does not know the sizes of its inputs",
        got=repr(module),
        wanted="a module of your own that declares inputs and calls it",
        fix=f"in graph(self, g): y = self.{name.lower()}({', '.join(wanted)})",
    )
