"""starting: torch.nn.init of a parameter is no part of a graph; of any other tensor it is.

What a parameter starts from is drawn once, as torch draws it. Any other tensor is filled anew at
every call, by the tensor's own methods, which the graph sees.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphnn.tracing.effects.captured import realised
from graphnn.tracing.effects.patches import Patch, attributes
from graphnn.tracing.effects.symbolic import is_value


def _kaiming_uniform(
    tensor: Any,
    a: float = 0,
    mode: Any = "fan_in",
    nonlinearity: Any = "leaky_relu",
    generator: Any = None,
) -> Any:
    """He et al. 2015, arXiv:1502.01852, eq. 14."""
    fan = nn.init._calculate_correct_fan(tensor, mode)
    bound = math.sqrt(3.0 / fan) * nn.init.calculate_gain(nonlinearity, a)
    return tensor.uniform_(-bound, bound, generator=generator)


# the functions of torch.nn.init that ask whoever sees torch's calls before they do anything
FILLED: dict[Any, Callable[..., Any]] = {
    nn.init.uniform_: lambda tensor, a=0.0, b=1.0, generator=None: tensor.uniform_(
        a, b, generator=generator
    ),
    nn.init.normal_: lambda tensor, mean=0.0, std=1.0, generator=None: tensor.normal_(
        mean, std, generator=generator
    ),
    nn.init.constant_: lambda tensor, val: tensor.fill_(val),
    nn.init.kaiming_uniform_: _kaiming_uniform,
}
# those that look at the numbers that they have drawn, or write through a view
REFUSED = frozenset({"trunc_normal_", "sparse_", "orthogonal_"})


def filled() -> tuple[str, Any] | None:
    """The function of torch.nn.init that is at work, as it was called, and its tensor."""
    frame, outermost = sys._getframe(2), None
    while frame is not None:
        if frame.f_code.co_filename == nn.init.__file__ and "tensor" in frame.f_locals:
            outermost = frame
        frame = frame.f_back  # type: ignore[assignment]
    if outermost is None:
        return None
    return outermost.f_code.co_name, outermost.f_locals["tensor"]


def shares(x: torch.Tensor, others: list[torch.Tensor]) -> bool:
    """Whether a tensor has the memory of one of the others."""
    with torch._C.DisableTorchFunction():
        storage = x.untyped_storage().data_ptr()
        return any(o.untyped_storage().data_ptr() == storage for o in others)


_NEW = nn.Parameter.__new__


def _born(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
    if is_value(data) and data.id in data.graph.unbound:
        data = realised(data.graph, data.id)
    return _NEW(cls, data, requires_grad)


# while graphs are drawn, a parameter made of noise starts from it
BORN = Patch(attributes(nn.Parameter, __new__=staticmethod(_born)))
