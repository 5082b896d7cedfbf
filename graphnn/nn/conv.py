"""Causal convolution over time: a sum of delayed linear maps."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Self

from graphnn.frontend.functions import delay
from graphnn.nn.axes import sequence_axis
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import Value


class TemporalConv(nn.Module):
    """A causal convolution: y(t) = b + Σ_k W_k x(t - k·dilation); x is zero before its start.

    Compiled alone it takes `x` (batch, time, input_size). It equals `nn.Conv1d` on an input that is
    padded by (kernel_size - 1)·dilation zeros on the left. The weights have the same layout (out,
    in, kernel_size); the last one applies to x(t).

        model = gn.compile(gn.nn.TemporalConv(3, 4, kernel_size=2))
        y = model(x=torch.randn(8, 10, 3))  # (8, 10, 4)

    Parameters
    ----------
    input_size, output_size : widths of x and y
    kernel_size : number of positions that y(t) depends on, including t
    dilation : distance between these positions
    bias : whether to add b
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
        standalone_graph(self, g, ("x", self.weight.shape[1], "time"))

    def forward(self, x: Value, over: str | None = None) -> Value:
        """(input,) over an axis -> (output,) over it. `over` names the axis if x has several."""
        over = sequence_axis(x, over)
        weights = x.graph.value(self.weight).unbind(-1)
        y: Value = 0.0 if self.bias is None else self.bias
        for k, weight in enumerate(reversed(weights)):
            past: Value = delay(x, k * self.dilation, over)
            y = F.linear(past, weight) + y
        return y

    @classmethod
    def from_torch(cls, module: nn.Conv1d) -> Self:
        """A module equal to an `nn.Conv1d` with groups=1 and stride=1 on left-padded input."""
        if module.groups != 1 or module.stride != (1,):
            raise ValueError(f"only groups=1 and stride=1 are supported, not {module}")
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
        """The `nn.Conv1d` with the same weights, without padding."""
        output, input, kernel = self.weight.shape
        made = nn.Conv1d(
            input, output, kernel, dilation=self.dilation, bias=self.bias is not None
        ).to(self.weight)
        made.load_state_dict(self.state_dict())
        return made

    def extra_repr(self) -> str:
        output, input, kernel = self.weight.shape
        return f"{input}, {output}, kernel_size={kernel}, dilation={self.dilation}"
