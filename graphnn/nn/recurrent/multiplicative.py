"""Linear maps whose weights depend linearly on another variable, and recurrent cells with them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from graphnn.nn.recurrent.layers import Recurrent
from graphnn.nn.recurrent.lstm import LSTMCell
from graphnn.nn.recurrent.rnn import RNNCell
from graphnn.nn.standalone import standalone_graph
from graphnn.nn.types import State, Value


class Multiplicative(nn.Module):
    """s = W x + b with w_ij = Σ_k u_ijk z_k, that is s = (Σ_k U_k z_k) x + b.

    Compiled alone it takes `x` (batch, time, input_size) and `z` (batch, time, control_size). It
    equals `nn.Bilinear`. If z does not vary over an axis of x, W is computed once for all positions
    of that axis.

        model = gn.compile(gn.nn.Multiplicative(3, 2, 4))
        s = model(x=torch.randn(8, 5, 3), z=torch.randn(8, 5, 2))  # (8, 5, 4)

    Parameters
    ----------
    input_size, control_size, output_size : widths of x, z and s
    bias : whether to add b
    """

    def __init__(self, input_size: int, control_size: int, output_size: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(output_size, input_size, control_size))
        self.register_parameter("bias", nn.Parameter(torch.empty(output_size)) if bias else None)
        bound = 1 / math.sqrt(input_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def graph(self, g: Any) -> None:
        """Inputs `x` (input_size,) and `z` (control_size,) over time, output `y`."""
        _, size, control = self.weight.shape
        standalone_graph(self, g, ("x", size, "time"), ("z", control, "time"))

    def forward(self, x: Value, z: Value) -> Value:
        """(input,), (control,) -> (output,)."""
        w = torch.einsum("ijk,k->ij", self.weight, z)
        s = w @ x
        return s if self.bias is None else s + self.bias

    @classmethod
    def from_torch(cls, module: nn.Bilinear) -> Self:
        """A module equal to an `nn.Bilinear` of x and z, in this order."""
        sizes = (module.in1_features, module.in2_features, module.out_features)
        made = cls(*sizes, bias=module.bias is not None).to(module.weight)
        made.load_state_dict(module.state_dict())
        return made

    def to_torch(self) -> nn.Bilinear:
        """The `nn.Bilinear` with the same weights."""
        output, input, control = self.weight.shape
        made = nn.Bilinear(input, control, output, bias=self.bias is not None).to(self.weight)
        made.load_state_dict(self.state_dict())
        return made

    def extra_repr(self) -> str:
        output, input, control = self.weight.shape
        return f"{input}, {control}, {output}, bias={self.bias is not None}"


class Modulated(nn.Module):
    """m = (A x) ⊙ (B h): a multiplicative map of h with a tensor of rank `size`."""

    def __init__(self, input_size: int, past_size: int, size: int):
        super().__init__()
        self.from_input = nn.Linear(input_size, size, bias=False)
        self.from_past = nn.Linear(past_size, size, bias=False)

    def forward(self, x: Value, h: Value) -> Value:
        return self.from_input(x) * self.from_past(h)


class MultiplicativeRNNCell(RNNCell):
    """h = tanh(W x + U m + b) with m = (A x) ⊙ (B h'), so U diag(A x) B replaces U.

    Sutskever et al. 2011, "Generating text with recurrent neural networks". It takes the options of
    `RNNCell`.

        h = gn.compile(gn.nn.MultiplicativeRNNCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        self.modulated = Modulated(input_size, self.sizes["h"], self.sizes["h"])

    def past(self, x: Value, h: State) -> Value:
        return self.modulated(x, super().past(x, h))


class MultiplicativeLSTMCell(LSTMCell):
    """An LSTM whose gates depend on m = (A x) ⊙ (B h') instead of h'.

    Krause et al. 2016, "Multiplicative LSTM for sequence modelling", arXiv:1609.07959. It takes the
    options of `LSTMCell`.

        h = gn.compile(gn.nn.MultiplicativeLSTMCell(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, **options: Any):
        super().__init__(input_size, hidden_size, bias, **options)
        self.modulated = Modulated(input_size, self.sizes["h"], self.sizes["h"])

    def past(self, x: Value, h: State) -> Value:
        return self.modulated(x, super().past(x, h))


class MultiplicativeRNN(Recurrent):
    """A multiplicative RNN over a sequence.

    It takes the parameters of `Recurrent` and the options of `RNNCell`.

        h = gn.compile(gn.nn.MultiplicativeRNN(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = MultiplicativeRNNCell


class MultiplicativeLSTM(Recurrent):
    """A multiplicative LSTM over a sequence.

    It takes the parameters of `Recurrent` and the options of `LSTMCell`.

        h = gn.compile(gn.nn.MultiplicativeLSTM(3, 4))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    cell = MultiplicativeLSTMCell
