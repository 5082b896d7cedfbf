"""Errors of kernels in float32, float16 and bfloat16 are at most twice those of torch.

Errors are relative to float64 on the same values, in units in the last place of the largest element
of each tensor. Two errors are compared: the root mean square of each output, final state and
gradient, with a tolerance of half a unit if torch happens to be exact; and the largest error of all
outputs and of all gradients. The largest error of a single tensor is chance: two implementations of
a cell by torch differ by a factor of three.

No GPU has run these yet.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import graphnn as gn
from tests.backends.triton.cells import INPUT, Sizes, inputs, run
from tests.backends.triton.places import Place, both, everywhere, strategies
from tests.networks.equality import numbers
from tests.nn.common import OverTime

SIZES = Sizes(16, 4, 33)
CELLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rnn": (gn.nn.RNN, {}),
    "lstm": (gn.nn.LSTM, {}),
    "lstm_peepholes": (gn.nn.LSTM, {"peepholes": True}),
    "lstm_layer_norm": (gn.nn.LSTM, {"layer_norm": True}),
    "gru_before": (gn.nn.GRU, {"reset": "before"}),
    "gru_after": (gn.nn.GRU, {"reset": "after"}),
    "multiplicative_lstm": (gn.nn.MultiplicativeLSTM, {}),
    "hyper_lstm": (gn.nn.HyperLSTM, {"hyper_size": 16, "embedding_size": 8}),
    "sru": (gn.nn.SRU, {}),
}
RARE = {"lstm_peepholes", "multiplicative_lstm", "hyper_lstm"}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EXACT = Place("reference", "cpu")


def network(name: str) -> Any:
    """A cell whose states stay well within (-1, 1)."""
    made, options = CELLS[name]
    net = OverTime(made(INPUT, SIZES.hidden, **options), INPUT, init=True).double()
    with torch.no_grad():
        for k, p in enumerate(net.parameters()):
            p.copy_(numbers(p, k) * (p.shape[-1] ** -0.5 if p.ndim > 1 else 0.5))
    return net


def errors(got: Tensor, exact: Tensor, unit: float) -> tuple[float, float]:
    """The root mean square and the largest."""
    apart = (got.double().cpu() - exact) / (unit * exact.abs().max())
    return apart.square().mean().sqrt().item(), apart.abs().max().item()


def too_wrong(
    got: dict[str, Tensor], eager: dict[str, Tensor], exact: dict[str, Tensor], unit: float
) -> list[str]:
    """What errs more than twice as much as torch."""
    found = []
    largest = {kind: [0.0, 0.0] for kind in ("outputs", "gradients")}
    for name in exact:
        pairs = zip(errors(got[name], exact[name], unit), errors(eager[name], exact[name], unit))
        (mine, theirs), most = pairs
        if not mine <= max(2 * theirs, 0.5):
            found.append(f"{name}: {mine:.2f} units in the mean, torch {theirs:.2f}")
        kind = "gradients" if name.startswith("gradient") else "outputs"
        largest[kind] = [max(pair) for pair in zip(largest[kind], most)]
    for kind, (mine, theirs) in largest.items():
        if not mine <= 2 * theirs:
            found.append(f"{kind}: {mine:.2f} units at most, torch {theirs:.2f}")
    return found


@everywhere
@both
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name", [pytest.param(c, marks=pytest.mark.slow) if c in RARE else c for c in CELLS]
)
def test_errs_at_most_twice_as_much_as_torch(
    name: str, dtype: torch.dtype, strategy: str, place: Place
) -> None:
    low = network(name).to(dtype)
    given = inputs(low, SIZES, dtype, "cpu")
    wide = {k: v.detach().double().requires_grad_() for k, v in given.items()}
    exact, _ = run(copy.deepcopy(low).double(), EXACT, (), wide, {})
    given = inputs(low, SIZES, dtype, place.device)
    low = low.to(place.device)
    eager, _ = run(low, Place("torch", place.device), (), given, {})
    got, model = run(low, place, place.skip(strategy), given, {})
    assert all(got[k].dtype == eager[k].dtype for k in exact)
    wrong = too_wrong(got, eager, exact, torch.finfo(dtype).eps)
    assert not wrong, "\n" + "\n".join(wrong)
    assert strategies(model) <= {strategy}
