"""Loops over examples of different lengths: equal to the definition, and no step too many.

Lengths are short of what the tensors have room for, several tiles of rows are not sorted, and what
a kernel leaves unwritten is not a number.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels import simulate
from graphnn.planner.plan import Variant
from tests.backends.cells import Sizes, inputs, network, run, skipped
from tests.backends.places import INTERPRET, Place, choices
from tests.backends.test_cooperative import poisoned
from tests.graphs import numbers
from tests.nn.common import close

TOLERANCE = 1e-12
KERNELS = ("resident", pytest.param("cooperative", marks=pytest.mark.slow))
FEW, MANY, NONE = [2, 0, 3], [3, 0, 1, 2, 1, 4, 0, 1, 1, 2, 1, 0, 1, 1, 3, 1, 1, 0, 2], [0]
CASES = [
    ("lstm_peepholes", FEW),
    ("gru_before", MANY),
    ("lstm", NONE),
    ("delayed", FEW),
    ("rnn_both_ways", MANY),
    ("lstm_layer_norm", FEW),
]
MOST = 6


def check(name: str, lengths: list[int], regime: str) -> None:
    """Hold a cell against the reference, its tensors longer than any example."""
    sizes = Sizes(len(lengths), MOST, 20)
    net = network(name, sizes.hidden)
    given, ends = inputs(net, sizes, torch.float64, "cpu"), {"time": torch.tensor(lengths)}
    wanted, _ = run(net, Place("reference", "cpu"), (), given, ends)
    given = inputs(net, sizes, torch.float64, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        got, model = run(net, INTERPRET, skipped(name, INTERPRET, regime), given, ends)
    close(got, wanted, TOLERANCE)
    assert {c.regime for c in choices(model)} == {regime}
    assert all("the longest of its rows" in c.reason for c in choices(model))


@pytest.mark.parametrize("name, lengths", CASES, ids=str)
def test_equals_the_reference(name: str, lengths: list[int]) -> None:
    check(name, lengths, "resident")


@pytest.mark.parametrize("name, lengths", CASES[:3], ids=str)
def test_shared_by_many_blocks_equals_the_reference(name: str, lengths: list[int]) -> None:
    check(name, lengths, "cooperative")


@pytest.mark.slow
@pytest.mark.parametrize("name, lengths", CASES[3:], ids=str)
def test_more_that_many_blocks_share(name: str, lengths: list[int]) -> None:
    check(name, lengths, "cooperative")


def loads(lengths: list[int] | None, regime: str) -> list[int]:
    """What each kernel of a call loads, under the checker."""
    sizes = Sizes(19, MOST, 8)
    net = network("lstm", sizes.hidden)
    ends = {} if lengths is None else {"time": torch.tensor(lengths)}
    given = inputs(net, sizes, torch.float64, "cpu")
    with simulate.checking() as reports:
        run(net, INTERPRET, INTERPRET.skip(regime), given, ends)
    return [r.loads for r in reports]


@pytest.mark.parametrize("regime", KERNELS)
def test_steps_that_no_row_has_are_not_taken(regime: str) -> None:
    """Sixteen rows of one tile have a single step, the three longest are in the other."""
    full, cut = loads([MOST] * 19, regime), loads([1] * 8 + [MOST] * 3 + [1] * 8, regime)
    one = loads([1] * 19, regime)
    assert len(full) == len(cut) == len(one) == 2
    for most, some, least in zip(full, cut, one, strict=True):
        assert least < 0.7 * most
        assert some == (least + most) / 2


class Positive(nn.Module):
    """Takes logarithms of a state that starts at one, of one looking ahead too."""

    def __init__(self) -> None:
        super().__init__()
        self.there, self.back = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time", dtype=torch.float64)
        a = g.state("a", (4,), init=1.0)
        b = g.state("b", (4,), init=1.0, delay=-1)
        a.next = torch.exp(torch.tanh(self.there(a) + x))
        b.next = torch.exp(torch.tanh(self.back(b) + x))
        g.output("y", torch.log(a.next) + 1 / b.next)


@pytest.mark.parametrize("backend", ["interpret", "torch"])
def test_what_is_made_of_values_beyond_the_end_stays_finite(backend: str) -> None:
    net, x = Positive(), numbers(torch.empty(3, 5, 4), 0).requires_grad_()
    ends = {"time": torch.tensor([3, 0, 1])}
    found: list[list[Any]] = []
    for chosen in ("reference", backend):
        model = gn.compile(net, backend=chosen, skip=INTERPRET.skip("resident"))
        y = model(x=x, lengths=ends)
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *net.parameters()])])
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=TOLERANCE)


def test_explain_says_where_loops_end() -> None:
    model = gn.compile(network("lstm", 8), backend="interpret")
    text = "as many steps as the longest of its rows"
    assert text in model.explain(lengths=("time",)) and text not in model.explain()
    assert "runtime.order(" in model._program(Variant(frozenset({"time"}))).sources()
