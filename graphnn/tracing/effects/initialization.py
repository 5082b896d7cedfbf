"""Initialisation: torch.nn.init of a parameter is not part of a graph; of other tensors it is.

The initial value of a parameter is drawn once, by torch. Any other tensor is filled at every call,
by methods of the tensor, which the graph sees.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from graphnn.tracing.effects.captured import sample
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


# the functions of torch.nn.init that call torch's override protocol first
INIT: dict[Any, Callable[..., Any]] = {
    nn.init.uniform_: lambda tensor, a=0.0, b=1.0, generator=None: tensor.uniform_(
        a, b, generator=generator
    ),
    nn.init.normal_: lambda tensor, mean=0.0, std=1.0, generator=None: tensor.normal_(
        mean, std, generator=generator
    ),
    nn.init.constant_: lambda tensor, val: tensor.fill_(val),
    nn.init.kaiming_uniform_: _kaiming_uniform,
}
# those that read the numbers that they have drawn, or write through a view
REFUSED = frozenset({"trunc_normal_", "sparse_", "orthogonal_"})


def running_init() -> tuple[str, Any] | None:
    """The name of the function of torch.nn.init that is running, and its tensor."""
    frame, outermost = sys._getframe(2), None
    while frame is not None:
        if frame.f_code.co_filename == nn.init.__file__ and "tensor" in frame.f_locals:
            outermost = frame
        frame = frame.f_back  # type: ignore[assignment]
    if outermost is None:
        return None
    return outermost.f_code.co_name, outermost.f_locals["tensor"]


def shares_memory(x: torch.Tensor, others: list[torch.Tensor]) -> bool:
    """Whether a tensor has the storage of one of the others."""
    with torch._C.DisableTorchFunction():
        storage = x.untyped_storage().data_ptr()
        return any(o.untyped_storage().data_ptr() == storage for o in others)


_NEW = nn.Parameter.__new__


def _new_parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
    if is_value(data) and data.id in data.graph.unbound:
        data = sample(data.graph, data.id)
    return _NEW(cls, data, requires_grad)


# during traces, a parameter made of random values starts from a sample of them
CREATION = Patch(attributes(nn.Parameter, __new__=staticmethod(_new_parameter)))
