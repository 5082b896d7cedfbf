"""Convolution in time: a sum of delayed linear maps."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from graphnn.frontend.functions import delay
from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import alone
from graphnn.nn.types import Value


class TemporalConv(nn.Module):
    """y(t) = b + Σ_k W_k x(t - k·dilation), over the past alone; x is zero before its start.

    Compiled alone it takes `x` (batch, time, input_size).
    `nn.Conv1d`'s equal on an input padded with (kernel_size - 1)·dilation zeros on the left, and
    with its weights: (out, in, kernel_size), the last of which is applied to x(t).

    Parameters
    ----------
    input_size, output_size : widths of x and y
    kernel_size : how many positions, t included, y(t) sees
    dilation : how far apart these are
    bias : whether b is added
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        kernel_size: int,
        dilation: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(output_size, input_size, kernel_size))
        self.register_parameter("bias", nn.Parameter(torch.empty(output_size)) if bias else None)
        bound = 1 / math.sqrt(input_size * kernel_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def graph(self, g: Any) -> None:
        """Input `x` (input_size,) over time, output `y`."""
        alone(self, g, ("x", self.weight.shape[1], "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(input,) over an axis -> (output,) over it; `over` names it where x has several."""
        over = sequence_axis(x, over)
        weights = x.graph.value(self.weight).unbind(-1)
        y: Value = 0.0 if self.bias is None else self.bias
        for k, weight in enumerate(reversed(weights)):
            past: Value = delay(x, k * self.dilation, over)
            y = F.linear(past, weight) + y
        return y

    @classmethod
    def from_torch(cls, module: nn.Conv1d) -> Self:
        """The same as an `nn.Conv1d` of one group and stride 1, on its input padded on the left."""
        if module.groups != 1 or module.stride != (1,):
            raise ValueError(f"only groups=1 and stride=1 can be taken over, not {module}")
        made = cls(
            module.in_channels,
            module.out_channels,
            module.kernel_size[0],
            module.dilation[0],
            module.bias is not None,
        ).to(module.weight)
        made.load_state_dict(module.state_dict())
        return made

    def to_torch(self) -> nn.Conv1d:
        """The `nn.Conv1d` of the same weights, without padding."""
        output, input, kernel = self.weight.shape
        made = nn.Conv1d(
            input, output, kernel, dilation=self.dilation, bias=self.bias is not None
        ).to(self.weight)
        made.load_state_dict(self.state_dict())
        return made

    def extra_repr(self) -> str:
        output, input, kernel = self.weight.shape
        return f"{input}, {output}, kernel_size={kernel}, dilation={self.dilation}"
