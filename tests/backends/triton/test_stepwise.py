"""Loops that no persistent kernel can run are stepwise, with a reason and equal results."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod

import pytest
import torch
from torch import nn

import graphnn as gn
from bench.networks import LSTM
from graphnn.backends.triton import target
from tests.backends.triton.places import INTERPRET, choices
from tests.networks.equality import compare
from tests.nn.common import doubles, randomised

WIDTH = 4


class Step(nn.Module, ABC):
    """h = tanh(W x + f(U h'))."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.rec = nn.Linear(3, WIDTH), nn.Linear(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        h = g.state("h", (WIDTH,))
        h.next = torch.tanh(self.enc(x) + self.changed(self.rec(h)))
        g.output("y", h.next)

    @abstractmethod
    def changed(self, v: gn.Value) -> gn.Value:
        """f, which decides whether a kernel can be written."""


class Opaque(Step):
    """A torch function without a row in the table."""

    def changed(self, v: gn.Value) -> gn.Value:
        return torch.cumsum(v, 0)


class Squared(nn.Module):
    """A matrix of each example's own times itself: too many products of rows to spell out."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(3, 17 * 17)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        m = g.state("m", (17, 17), init=0.1)
        m.next = torch.tanh(self.enc(x).reshape(17, 17) + 0.1 * m @ m)
        g.output("y", m.next)


class Slots(nn.Module):
    """A softmax over slots and one over heads at every step: no tile has both as its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.Linear(3, 1)

    def graph(self, g: gn.Graph) -> None:
        g.axis("slot", 3)
        g.axis("head", 2)
        x = g.input("x", (3,), over="time")
        w = g.state("w", (), along="slot", init=0.5)
        score = w + gn.index("slot", graph=g) * self.enc(x).reshape(())
        shares = gn.softmax(score * gn.index("head", graph=g), over="head")
        w.next = gn.softmax(score + gn.max(shares, over="head"), over="slot")
        g.output("y", w.next)


class Pieces(nn.Module):
    """A reversed state: every element is a piece of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.rec = nn.Linear(3, 70), nn.Linear(70, 70)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        h = g.state("h", (70,))
        h.next = torch.tanh(self.enc(x) + self.rec(h).flip(0))
        g.output("y", h.next)


REASONS = {
    Opaque: r"torch\.cumsum at test_stepwise\.py:\d+ has no row in the table",
    Squared: r"an einsum .\w+,\w+->\w+. of values of each example, would have more than 256 terms",
    Slots: r"a step needs all positions of head and of slot",
    Pieces: r"\(70,\) elements per example, needs more than 64 tiles",
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_cannot_be_written_goes_step_by_step(kind: type) -> None:
    net = randomised(kind())
    compare(net, {"x": doubles(3, 4, 3)}, backend="interpret", skips=[INTERPRET.skip("resident")])
    model = gn.compile(net, backend="interpret", skip=("fit",))
    model(x=doubles(3, 4, 3))
    forward = choices(model)[0]
    assert forward.strategy == "stepwise"
    assert re.search(REASONS[kind], forward.reason), forward.reason


def planned(
    size: int, dtype: torch.dtype, backend: str, skip: tuple[str, ...] = ()
) -> set[tuple[str, str]]:
    """How the loops of an LSTM are run and why, forward and backward; nothing is launched."""
    model = gn.compile(LSTM(size).to(dtype), backend=backend, skip=skip)
    model.program()
    return {(c.strategy, c.reason) for c in choices(model)}


@pytest.mark.parametrize("backend", ["interpret", "triton"])
@pytest.mark.parametrize("dtype, size", [(torch.bfloat16, 256), (torch.float32, 128)], ids=str)
def test_weights_that_do_not_fit_are_shared_or_go_step_by_step(
    dtype: torch.dtype, size: int, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "current", lambda: "sm_90")
    why = r"weights of 5\d\d KB do not fit the 227 KB of one multiprocessor \(sm_90, (bf16|fp32)\)"
    for strategy, reason in planned(size, dtype, backend):
        assert strategy == "cooperative"
        assert re.search(why + "$", reason)
    for strategy, reason in planned(size, dtype, backend, ("cooperative",)):
        assert strategy == "stepwise"
        assert re.search(why + r"; .* \(skip 'cooperative'\)$", reason)


@pytest.mark.parametrize("dtype, size", [(torch.bfloat16, 128), (torch.float32, 64)], ids=str)
def test_weights_that_fit_stay(dtype: torch.dtype, size: int) -> None:
    for strategy, reason in planned(size, dtype, "interpret"):
        assert strategy == "resident"
        assert re.search(r"weights and operands need about 1\d\d of 227 KB", reason)


def test_float64_goes_step_by_step_on_a_gpu_alone() -> None:
    ((strategy, reason),) = planned(8, torch.float64, "triton")
    assert strategy == "stepwise" and reason.endswith("no matrix unit multiplies torch.float64")
    assert {strategy for strategy, _ in planned(8, torch.float64, "interpret")} == {"resident"}
