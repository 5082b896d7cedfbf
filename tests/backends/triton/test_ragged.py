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
from graphnn.backends.torch.runtime import packed
from graphnn.backends.torch.runtime.active_rows import ActiveRows
from graphnn.backends.triton.strategy import KernelLowering
from graphnn.kernels import simulate
from graphnn.kernels.ir.program import LoopProgram, Unsupported
from graphnn.planner.loops.sink import WIDE
from tests.backends.triton.cells import Delayed, Sizes, drawn, inputs, network, run, skipped
from tests.backends.triton.places import INTERPRET, Place, choices
from tests.backends.triton.test_cooperative import poisoned
from tests.networks.equality import numbers
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


def check(name: str, lengths: list[int], strategy: str) -> None:
    """Hold a cell against the reference, its tensors longer than any example."""
    sizes = Sizes(len(lengths), MOST, 20)
    net = network(name, sizes.hidden)
    given, ends = inputs(net, sizes, torch.float64, "cpu"), {"time": torch.tensor(lengths)}
    wanted, _ = run(net, Place("reference", "cpu"), (), given, ends)
    given = inputs(net, sizes, torch.float64, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", poisoned)
        got, model = run(net, INTERPRET, skipped(name, INTERPRET, strategy), given, ends)
    close(got, wanted, TOLERANCE)
    assert {c.strategy for c in choices(model)} == {strategy}
    assert all("until its longest row ends" in c.reason for c in choices(model))


@pytest.mark.parametrize("name, lengths", CASES, ids=str)
def test_equals_the_reference(name: str, lengths: list[int]) -> None:
    check(name, lengths, "resident")


@pytest.mark.parametrize(
    "name, lengths, hidden",
    [*((*case, 20) for case in CASES), ("lstm_peepholes", FEW, WIDE), ("delayed", NONE, WIDE)],
    ids=str,
)
def test_torch_code_equals_the_reference(
    name: str, lengths: list[int], hidden: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rows that run alone; products leave padding out, however few the numbers."""
    monkeypatch.setattr(packed, "ENOUGH", 0)
    sizes = Sizes(len(lengths), MOST, hidden)
    net = network(name, sizes.hidden)
    given, ends = inputs(net, sizes, torch.float64, "cpu"), {"time": torch.tensor(lengths)}
    wanted, _ = run(net, Place("reference", "cpu"), (), given, ends)
    given = inputs(net, sizes, torch.float64, "cpu")
    monkeypatch.setattr(torch, "empty", poisoned)
    got, model = run(net, Place("torch", "cpu"), ("match", "scan"), given, ends)
    close(got, wanted, TOLERANCE)
    (program,) = (p for p in model.programs if p.loops)
    assert all("runtime.ActiveRows(" in x.train.source for x in program.loops)
    assert "runtime.packed_linear(" in program.source


@pytest.mark.parametrize("name, lengths", CASES[:3], ids=str)
def test_shared_by_many_blocks_equals_the_reference(name: str, lengths: list[int]) -> None:
    check(name, lengths, "cooperative")


@pytest.mark.slow
@pytest.mark.parametrize("name, lengths", CASES[3:], ids=str)
def test_more_that_many_blocks_share(name: str, lengths: list[int]) -> None:
    check(name, lengths, "cooperative")


def test_where_rows_in_order_do_not_fit_they_come_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    best = KernelLowering._best

    def tight(self: KernelLowering, program: LoopProgram, floating: torch.dtype) -> Any:
        if program.order is not None:
            raise Unsupported("a few registers too many")
        return best(self, program, floating)

    monkeypatch.setattr(KernelLowering, "_best", tight)
    check("gru_before", MANY, "resident")
    model = gn.compile(network("lstm", 8), backend="interpret")
    text = model.explain(lengths=("time",))
    assert "until its longest row ends" in text and "sorted" not in text


def loads(lengths: list[int] | None, strategy: str) -> list[int]:
    """What each kernel of a call loads, under the checker."""
    sizes = Sizes(19, MOST, 8)
    net = network("lstm", sizes.hidden)
    ends = {} if lengths is None else {"time": torch.tensor(lengths)}
    given = inputs(net, sizes, torch.float64, "cpu")
    with simulate.checking() as reports:
        run(net, INTERPRET, INTERPRET.skip(strategy), given, ends)
    return [r.loads for r in reports]


@pytest.mark.parametrize("strategy", KERNELS)
def test_steps_that_no_row_has_are_not_taken(strategy: str) -> None:
    """Sixteen rows of one tile have a single step, the three longest are in the other."""
    full, cut = loads([MOST] * 19, strategy), loads([1] * 8 + [MOST] * 3 + [1] * 8, strategy)
    one = loads([1] * 19, strategy)
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


def test_explain_shows_the_cost_of_steps() -> None:
    text = gn.compile(network("gru_before", 8)).explain(lengths=("time",))
    assert "ragged: each step computes the examples that still run, sorted by length" in text
    model = gn.compile(network("lstm", 8), backend="interpret", skip=("resident", "cooperative"))
    assert "ragged: every step computes all examples, masked" in model.explain(lengths=("time",))
    assert "ragged" not in model.explain()


def test_explain_shows_where_loops_end() -> None:
    model = gn.compile(network("lstm", 8), backend="interpret")
    text = "until its longest row ends"
    assert text in model.explain(lengths=("time",)) and text not in model.explain()
    assert "runtime.longest_first(" in model.program(lengths=("time",)).sources()


class Words(nn.Module):
    """A loop over time, and one over another ragged axis."""

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (2,), over="time", dtype=torch.float64)
        y = g.input("y", (2,), over="word", dtype=torch.float64)
        h = g.state("h", (2,), dtype=torch.float64)
        u = g.state("u", (2,), over="word", dtype=torch.float64)
        h.next = torch.tanh(h + x + gn.first(y, over="word"))
        u.next = torch.tanh(u * gn.last(h.next, over="time") + y)
        g.output("h", h.next)
        g.output("u", u.next)


def test_two_ragged_axes() -> None:
    """Examples are sorted along one of them."""
    x, y = numbers(torch.empty(3, 5, 2), 0), numbers(torch.empty(3, 4, 2), 1)
    ends = {"time": torch.tensor([3, 0, 5]), "word": torch.tensor([1, 4, 2])}
    found = [
        gn.compile(Words(), backend=backend)(
            x=x.requires_grad_(), y=y.requires_grad_(), lengths=ends
        )
        for backend in ("torch", "reference")
    ]
    grads = [torch.autograd.grad(f["h"].sum() + f["u"].square().sum(), [x, y]) for f in found]
    torch.testing.assert_close(*found, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(*grads, rtol=TOLERANCE, atol=TOLERANCE)
    text = gn.compile(Words()).explain(lengths=("time", "word"))
    assert "sorted by length" in text and "masked: examples are not sorted" in text


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_an_empty_batch(backend: str) -> None:
    x = torch.empty(0, 4, 5, dtype=torch.float64, requires_grad=True)
    none = torch.empty(0, dtype=torch.int64)
    y = gn.compile(drawn(Delayed(5, 3)), backend=backend, skip=INTERPRET.skip("resident"))(
        x=x, u0=torch.empty(0, 3, dtype=torch.float64), lengths={"time": none}
    )
    y.sum().backward()
    assert y.shape == (0, 4, 3) and x.grad is not None


def test_positions_that_are_there_alone_are_multiplied_twice_differentiable() -> None:
    there = ActiveRows(torch.tensor([4, 2, 0]), False)
    x = numbers(torch.empty(5, 3, 2), 0).requires_grad_()
    w = numbers(torch.empty(3, 2), 1).requires_grad_()

    def product(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return packed.packed_linear(there, x, w, held=False).tanh()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "ENOUGH", 0)
        inside = torch.arange(5)[:, None, None] < torch.tensor([4, 2, 1])[:, None]
        torch.testing.assert_close(product(x, w), (x @ w.t()).tanh() * inside)
        assert torch.autograd.gradcheck(product, (x, w))
        assert torch.autograd.gradgradcheck(product, (x, w))
