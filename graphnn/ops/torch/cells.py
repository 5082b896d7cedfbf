"""Torch's recurrent cells as primitives, each gate under a name of its own: `cell.forget_gate` ...

The formulas are those of the documentation of `torch.nn.LSTMCell`, `GRUCell` and `RNNCell`.
"""

from __future__ import annotations

from typing import Any

from graphnn.ops.builder import Expr, make, role
from graphnn.ops.torch.reductions import linear_map
from graphnn.ops.torch.registry import names
from graphnn.ops.torch.shapes import cut


def _linear(part: str, x: Expr, weight: Expr, bias: Expr | None) -> Expr:
    with role(x.ir, part):
        made: Expr = linear_map(x, weight, bias)
        return made


def _parts(x: Expr, *roles: str) -> list[Expr]:
    """Return equal parts of the last dimension, each named by its role."""
    size, dim, found = x.shape[-1] // len(roles), len(x.shape) - 1, []
    for k, part in enumerate(roles):
        with role(x.ir, part):
            found.append(cut(x, dim, k * size, (k + 1) * size))
    return found


def _activated(op: str, part: str, a: Expr, b: Expr) -> Expr:
    """Return a pointwise function of the sum of two values."""
    with role(a.ir, f"{part}.sum"):
        total = a + b
    with role(a.ir, part):
        return make(op, total)


def _named(op: str, part: str, *operands: Any) -> Expr:
    with role(operands[-1].ir, part):
        return make(op, *operands)


def _plain(op: str, x: Expr, h: Expr, w: Expr, u: Expr, b: Any, c: Any) -> Expr:
    """Return the next state of a cell without gates."""
    return make(op, _both("sum", x, h, w, u, b, c))


def _both(part: str, x: Expr, h: Expr, w: Expr, u: Expr, b: Any, c: Any) -> Expr:
    """Return the sum of the linear maps of the input and of the state."""
    return _named("add", part, _linear("input", x, w, b), _linear("hidden", h, u, c))


@names("rnn_tanh_cell")
def _rnn_tanh(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    return _plain("tanh", x, h, w, u, b, c)


@names("rnn_relu_cell")
def _rnn_relu(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    return _plain("relu", x, h, w, u, b, c)


@names("gru_cell")
def _gru(x: Expr, h: Expr, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    x_parts = _parts(_linear("input", x, w, b), "input.reset", "input.update", "input.new")
    h_parts = _parts(_linear("hidden", h, u, c), "hidden.reset", "hidden.update", "hidden.new")
    r = _activated("sigmoid", "reset_gate", x_parts[0], h_parts[0])
    z = _activated("sigmoid", "update_gate", x_parts[1], h_parts[1])
    n = _activated("tanh", "new", x_parts[2], _named("mul", "new.reset", r, h_parts[2]))
    fresh = _named("mul", "new.weighted", _named("sub", "update_gate.rest", 1, z), n)
    return fresh + _named("mul", "hidden.weighted", z, h)


@names("lstm_cell")
def _lstm(x: Expr, hc: Any, w: Expr, u: Expr, b: Any = None, c: Any = None) -> Any:
    gates = _both("gates", x, hc[0], w, u, b, c)
    sums = "input_gate.sum", "forget_gate.sum", "new.sum", "output_gate.sum"
    i, f, g, o = _parts(gates, *sums)
    kept = _named("mul", "memory.kept", _named("sigmoid", "forget_gate", f), hc[1])
    gate, new = _named("sigmoid", "input_gate", i), _named("tanh", "new", g)
    memory = _named("add", "memory", kept, _named("mul", "memory.added", gate, new))
    gate = _named("sigmoid", "output_gate", o)
    return gate * _named("tanh", "memory.tanh", memory), memory
