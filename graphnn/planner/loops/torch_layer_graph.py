"""torch's LSTM, GRU and RNN as graphs: the layers that `torch_layers` found, in one normal form.

The formulas are those of torch.nn; the rows of the gates are in torch's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from graphnn.ir.graph import BATCH, IR, Axis, Node
from graphnn.ops.builder import Expr, make
from graphnn.ops.matmul import linear
from graphnn.ops.registry import build
from graphnn.planner.boundary.lengths import valid
from graphnn.planner.boundary.states import add_finals


def definition(ir: IR, node: Node, wanted: Iterable[int]) -> IR:
    """A graph that computes the same as an `aten` node.

    It has an input for each operand that is not a constant, named by its position ("0" is x), and
    an output for each of the `wanted` results: the sequence (0) and the final states (1, 2).
    """
    axis, ragged = node.attrs["axis"], node.attrs["ragged"]
    own = ir.empty()
    own.name, own.axes = f"torch's {node.attrs['kind']}", {axis: Axis(axis), BATCH: ir.axes[BATCH]}
    given = node.inputs[: -1 if ragged else None]
    x, *rest = (_operand(own, ir, i, k) for k, i in enumerate(given))
    inits, weights = rest[:-4], rest[-4:]
    own.here = (node.name, node.site)
    states = [_state(own, node, *pair) for pair in zip(node.attrs["states"], inits, strict=True)]
    after = STEPS[node.attrs["kind"]](x, weights, states)
    for state, value in zip(states, after, strict=True):
        masked = make("where", valid(own, axis), value, state) if ragged else value
        own.closings[state.id] = masked.id
    own.here = ("", None)
    own.outputs = {"0": after[0].id}
    last = {k: state.id for k, state in enumerate(states, 1) if k in wanted}
    own = add_finals(own, list(last.values()), frozenset({axis}) if ragged else frozenset())
    made = [i for name, i in own.outputs.items() if name != "0"]
    results = {0: after[0].id, **dict(zip(last, made, strict=True))}
    own.outputs = {str(k): i for k, i in results.items() if k in wanted}
    return own


def _operand(own: IR, ir: IR, i: int, place: int) -> Expr:
    """An operand as an input, or as the constant that it is."""
    node = ir[i]
    if node.op != "const" and i not in own.nodes:
        attrs = {"key": str(place), "over": ir.layout(node.axes), "batched": False}
        node = replace(node, op="input", inputs=(), attrs=attrs)
    return Expr(own, own.insert(own.nodes.get(i, node)))


def _state(own: IR, node: Node, name: str, init: Expr) -> Expr:
    steps = -1 if node.attrs["reverse"] else 1
    attrs = {"axis": node.attrs["axis"], "steps": steps, "key": f"{name} {len(own)}"}
    form = {"shape": node.shape, "dtype": node.dtype, "axes": node.axes}
    made = build(own, "delay", (init.id,), attrs, **form, name=name, site=node.site)  # type: ignore[arg-type]
    return Expr(own, made)


def _gates(x: Expr, count: int) -> list[Expr]:
    size = x.shape[0] // count
    cuts = [(k * size, (k + 1) * size) for k in range(count)]
    return [make("slice", x, dim=0, start=a, stop=b, step=1) for a, b in cuts]


def _lstm(x: Expr, weights: list[Expr], states: list[Expr]) -> list[Expr]:
    (to_x, to_h, bias, more), (h, c) = weights, states
    i, f, g, o = _gates(linear(x, to_x) + (bias + more) + linear(h, to_h), 4)
    after = make("sigmoid", f) * c + make("sigmoid", i) * make("tanh", g)
    return [make("sigmoid", o) * make("tanh", after), after]


def _gru(x: Expr, weights: list[Expr], states: list[Expr]) -> list[Expr]:
    (to_x, to_h, bias, more), (h,) = weights, states
    outside, inside = _gates(linear(x, to_x) + bias, 3), _gates(linear(h, to_h) + more, 3)
    r, z = (make("sigmoid", a + b) for a, b in zip(outside[:2], inside[:2], strict=True))
    new = make("tanh", outside[2] + r * inside[2])
    return [(1 - z) * new + z * h]


def _rnn(function: str) -> Callable[[Expr, list[Expr], list[Expr]], list[Expr]]:
    def step(x: Expr, weights: list[Expr], states: list[Expr]) -> list[Expr]:
        to_x, to_h, bias, more = weights
        return [make(function, linear(x, to_x) + (bias + more) + linear(states[0], to_h))]

    return step


STEPS: dict[str, Callable[[Expr, list[Expr], list[Expr]], list[Expr]]] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _rnn("tanh"),
    "rnn_relu": _rnn("relu"),
}
