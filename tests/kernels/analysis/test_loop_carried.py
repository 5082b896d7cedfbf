"""States that begin as one value stay apart in compiled loops; slots that blocks use in turn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels import simulate
from graphnn.kernels.analysis.loop_carried import aliased, loaded
from tests.backends.triton.places import INTERPRET
from tests.backends.triton.test_checked import launchers, outputs

SWAPPED = """
def kernel(start, n):
    a = start
    b = {0}
    for step in range(n):
        now = a + 1
        a = b
        b = now
"""


class Late(nn.Module):
    """A state of two steps ago, all of whose slots begin as one input."""

    def __init__(self, start: object = "given") -> None:
        super().__init__()
        self.rec, self.enc, self.start = nn.Linear(20, 20), nn.Linear(5, 20), start

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="time")
        init = g.input("u0", (20,)) if self.start == "given" else None
        u = g.state("u", (20,), delay=2, init=init)
        u.next = torch.tanh(self.rec(u) + self.enc(x))
        g.output("y", u.next)


class Shifted(nn.Module):
    """A state that is the last one's value, both beginning as one input."""

    def __init__(self) -> None:
        super().__init__()
        self.rec = nn.Linear(20, 20)

    def graph(self, g: gn.Graph) -> None:
        x, start = g.input("x", (20,), over="time"), g.input("u0", (20,))
        h, z = g.state("h", (20,), init=start), g.state("z", (20,), init=start)
        h.next = torch.tanh(self.rec(h) + x + z)
        z.next = h
        g.output("y", h.next)


def test_variables_that_change_places_and_began_as_one_are_found():
    assert aliased(SWAPPED.format("start")) == ["a"]
    assert aliased(SWAPPED.format("start * 1")) == []


@pytest.mark.parametrize("strategy", ["resident", "cooperative"])
@pytest.mark.parametrize("net", [Late, Shifted])
def test_states_with_one_initial_value_are_separate_values(net, strategy):
    torch.manual_seed(0)
    model = gn.compile(net().double(), backend="interpret", skip=INTERPRET.skip(strategy))
    width = 5 if net is Late else 20
    given = {"x": torch.randn(3, 5, width).double(), "u0": torch.randn(3, 20).double()}
    given = {k: v.requires_grad_() for k, v in given.items()}
    model(**given).sum().backward()
    texts = [k.source.text for k in launchers(model)]
    assert len(texts) >= 2
    assert [aliased(text) for text in texts] == [[] for _ in texts]


@pytest.mark.parametrize("seed", [0, 1])
def test_no_block_overwrites_a_delayed_state_before_others_read_it(seed):
    torch.manual_seed(0)
    net = Late("zero").double()
    x = torch.randn(3, 5, 5).double().requires_grad_()
    model = gn.compile(net, backend="interpret", skip=INTERPRET.skip("cooperative"))
    want = model(x=x)
    want.sum().backward()
    stores = {k.source.name: outputs(k) for k in launchers(model)}
    with simulate.checking(stores) as reports:
        got = model(x=x)
        got.sum().backward()
    assert len(reports) == 2 and torch.equal(got, want)


def test_a_kernel_whose_variables_are_one_is_not_loaded():
    with pytest.raises(AssertionError, match="constant"):
        loaded(SWAPPED.format("start"), "swapped")
