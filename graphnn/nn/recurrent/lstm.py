"""Long short-term memory, with its common options."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphnn.nn.recurrent.cell import GatedCell
from graphnn.nn.recurrent.torch_weights import TorchRecurrent
from graphnn.nn.types import State, Value


class LSTMCell(GatedCell):
    """Long short-term memory. With h' = h(t-1), c' = c(t-1), and gates in torch's order, i f g o:

        i, f, o = σ(W x + U h' + b)
        c = f ⊙ c' + i ⊙ tanh(W_g x + U_g h' + b_g)
        h = o ⊙ tanh(c)

    (Hochreiter & Schmidhuber 1997; Gers et al. 2000.)

    Parameters
    ----------
    proj_size : width of the projection h = V (o ⊙ tanh(c)) (Sak et al. 2014); 0 for none
    peepholes : i and f also depend on w ⊙ c', o on w ⊙ c (Gers & Schmidhuber 2000; Graves 2013,
        eq. 7-11)
    coupled : i = 1 - f, without weights for i (Greff et al. 2017, "CIFG")
    layer_norm : as in `GatedCell`, and h = o ⊙ tanh(LN(c)) (Ba et al. 2016)
    candidate_dropout : probability of dropping a unit of the candidate at a step (Semeniuta et al.
        2016, arXiv:1603.05118)
    forget_bias : initial bias of f; a large one remembers at first (Gers et al. 2000; Jozefowicz et
        al. 2015)
    recurrent_dropout, orthogonal : see `GatedCell`

        h = gn.compile(gn.nn.LSTMCell(3, 4, peepholes=True))(x=torch.randn(2, 5, 3))  # (2, 5, 4)
    """

    weight_hr: nn.Parameter | None
    weight_ci: nn.Parameter | None
    weight_cf: nn.Parameter | None
    weight_co: nn.Parameter | None
    norm_c: nn.LayerNorm | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        proj_size: int = 0,
        peepholes: bool = False,
        coupled: bool = False,
        layer_norm: bool = False,
        recurrent_dropout: float = 0.0,
        candidate_dropout: float = 0.0,
        forget_bias: float | None = None,
        orthogonal: bool = False,
    ):
        super().__init__(
            input_size,
            hidden_size,
            bias,
            parts=[(3 if coupled else 4) * hidden_size],
            sizes={"h": proj_size or hidden_size, "c": hidden_size},
            layer_norm=layer_norm,
            recurrent_dropout=recurrent_dropout,
            orthogonal=orthogonal,
        )
        self.coupled, self.candidate_dropout = coupled, candidate_dropout
        self.forget_bias = forget_bias
        self.norm_c = nn.LayerNorm(hidden_size) if layer_norm else None
        self.weight_hr = _optional(proj_size, proj_size, hidden_size)
        for name in ("weight_ci", "weight_cf", "weight_co"):
            used = peepholes and not (coupled and name == "weight_ci")
            self.register_parameter(name, _optional(used, hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as `GatedCell`, and the bias of the forget gate if asked."""
        super().reset_parameters()
        if self.bias_ih is not None and self.bias_hh is not None:
            self.start_forget(self.bias_ih, self.bias_hh)

    def start_forget(self, bias: Tensor, *others: Tensor) -> None:
        """Set the forget gate rows of one bias to `forget_bias`, of the others to zero."""
        n = self.hidden_size
        rows = slice(0, n) if self.coupled else slice(n, 2 * n)
        if self.forget_bias is not None:
            with torch.no_grad():
                bias[rows] = self.forget_bias
                for other in others:
                    other[rows] = 0

    def past(self, x: Value, h: State) -> Value:
        """The operand of U: (past,)."""
        return self.dropped(h)

    def forward(self, x: Value, h: State, c: State) -> dict[str, Value]:
        """(input,) and the states (output,), (hidden,) -> their next values."""
        return self.update(self.from_input(x) + self.from_past(self.past(x, h)), c)

    def update(self, gates: Value, c: Value) -> dict[str, Value]:
        """The next states from W x + U h + b, (4·hidden,), and the last c."""
        *i, f, g, o = gates.chunk(3 if self.coupled else 4, -1)
        f = torch.sigmoid(_peep(f, self.weight_cf, c))
        i = 1 - f if self.coupled else torch.sigmoid(_peep(i[0], self.weight_ci, c))
        c = f * c + i * F.dropout(torch.tanh(g), self.candidate_dropout, self.training)
        shown = c if self.norm_c is None else self.norm_c(c)
        h = torch.sigmoid(_peep(o, self.weight_co, c)) * torch.tanh(shown)
        return {"h": h if self.weight_hr is None else F.linear(h, self.weight_hr), "c": c}


def _optional(used: object, *shape: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(shape)) if used else None


def _peep(gate: Value, weight: nn.Parameter | None, c: Value) -> Value:
    return gate if weight is None else gate + weight * c


class LSTM(TorchRecurrent):
    """Long short-term memory over a sequence; by default it equals `nn.LSTM`.

    It takes the parameters of `Recurrent` and the options of `LSTMCell`. In a graph,
    `h, states = lstm(x, with_states=True)` gives the sequence of c as states["c"].

        lstm = gn.nn.LSTM(3, 4, bidirectional=True)
        h = gn.compile(lstm)(x=torch.randn(2, 5, 3))  # (2, 5, 8)
        gn.nn.LSTM.from_torch(nn.LSTM(3, 4))  # the same weights
    """

    cell = LSTMCell
    torch_class = nn.LSTM
    shared = ("proj_size",)
