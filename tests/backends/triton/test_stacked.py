"""Stacked loops as one kernel: equal to the definition, by the model's choice, and no faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.triton.loops import stacked
from graphnn.kernels import simulate
from tests.backends.triton.places import INTERPRET, choices, lowerings
from tests.networks.equality import compare
from tests.nn.common import doubles, randomised

SKIP = INTERPRET.skip("cooperative")
HIDDEN = 20  # two blocks, of 16 and 4 units
TOGETHER = "stacked loops in one kernel"


class Layers(nn.Module):
    """Layers of the library."""

    def __init__(self, kind: Callable[..., Any], count: int, **options: Any) -> None:
        super().__init__()
        self.layers = kind(3, HIDDEN, num_layers=count, **options)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layers(g.input("x", (3,), over="time")))


class Between(nn.Module):
    """Two loops with operations between them that also read the input. The lower is an output too.

    `way` is the delay of both.
    """

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way = way
        self.low, self.high = nn.Linear(3 + HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)
        self.mid, self.start = nn.Linear(HIDDEN + 3, HIDDEN), nn.Parameter(torch.zeros(HIDDEN))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        a = g.state("a", (HIDDEN,), delay=self.way)
        b = g.state("b", (HIDDEN,), delay=self.way, init=self.start)
        a.next = torch.tanh(self.low(torch.cat([x, a])))
        seen = torch.sigmoid(self.mid(torch.cat([a.next, x]))) * a.next
        b.next = torch.tanh(self.high(torch.cat([seen, b]))) + 0.5 * b
        g.output("y", b.next)
        g.output("low", a.next * 2)
        g.output("last", gn.last(a.next, over="time"))


NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Layers(gn.nn.LSTM, 2),
    "three": lambda: Layers(gn.nn.RNN, 3),
    "gru": lambda: Layers(gn.nn.GRU, 2, reset="after"),
    "gru_before": lambda: Layers(gn.nn.GRU, 2, reset="before"),
    "between": lambda: Between(1),
    "two_back": lambda: Between(2),
    "from_the_end": lambda: Between(-1),
}
FEW = ("lstm", "from_the_end")


def reasons(model: gn.Compiled) -> list[str]:
    """Why each loop runs as it does."""
    return [c.reason for c in choices(model)]


def run(net: nn.Module, skip: Any = SKIP, time: int = 2) -> gn.Compiled:
    model = gn.compile(net, backend="interpret", skip=skip)
    out = model(x=doubles(3, time, 3))
    (out if isinstance(out, torch.Tensor) else out["y"]).sum().backward()
    return model


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every stack that can be one kernel becomes one, whatever the model says."""
    monkeypatch.setattr(stacked, "MODEL_ERROR", 0.0)


SIZES = [pytest.param(b, t, r, marks=[pytest.mark.slow] * (b != 3)) for b, t, r in
         [(3, 3, True), (1, 1, False), (17, 4, False), (0, 2, False)]]  # fmt: skip
SOME = [pytest.param(n, marks=[pytest.mark.slow] * (n not in FEW)) for n in NETS]


@pytest.mark.parametrize("batch, time, ragged", SIZES)
@pytest.mark.parametrize("name", SOME)
@pytest.mark.usefixtures("always")
def test_equals_the_reference(name: str, batch: int, time: int, ragged: bool) -> None:
    net = randomised(NETS[name]())
    lengths = {"time": torch.tensor([3, 1, 2])} if ragged else {}
    compare(net, {"x": doubles(batch, time, 3)}, lengths, True, [SKIP], backend="interpret")
    if batch:
        forward, *backward = reasons(run(net))
        assert TOGETHER in forward
        # no cooperative kernel splits the result of a matmul of two concatenated values
        assert isinstance(net, Between) or [TOGETHER in r for r in backward] == [True]


def test_the_model_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of an LSTM meet at one barrier both ways; what gains less than it errs is left."""
    forward, backward = choices(run(randomised(NETS["lstm"]())))
    assert f"2 {TOGETHER}: 1.2 µs per step, 1.1 + 1.1 in sequence" in forward.reason
    assert f"2 {TOGETHER}: 1.2 µs per step, 1.2 + 1.2 in sequence" in backward.reason
    monkeypatch.setattr(stacked, "MODEL_ERROR", 10.0)
    apart = reasons(run(randomised(NETS["lstm"]())))
    assert "not fused with the loops stacked on it: 1.2 µs per step, 1.1 + 1.1" in apart[0]
    assert not any(TOGETHER in reason for reason in apart)


@pytest.mark.parametrize(
    "seed", [pytest.param(k, marks=[pytest.mark.slow] * (k > 1)) for k in range(5)]
)
@pytest.mark.usefixtures("always")
def test_layers_meet_once_a_step_whoever_runs_first(seed: int) -> None:
    """Backward too: what the lower layer publishes last is read by the step after."""
    net, x = randomised(NETS["lstm"]()), doubles(3, 3, 3)
    model = gn.compile(net, backend="interpret", skip=SKIP)
    wanted = torch.autograd.grad(model(x=x).sum(), list(net.parameters()))
    kernels = [k for lowering in lowerings(model) for k in lowering.launchers.values()]
    assert {k.source.barriers for k in kernels} == {1}  # type: ignore[attr-defined]
    kept = {}
    for k in kernels:
        names, inputs = k.function.arg_names, len(k.source.program.tensors)
        kept[k.source.name] = names[inputs : len(k.source.pointers) + len(k.source.exchanges)]  # type: ignore[attr-defined]
    with simulate.checking(kept, seed=seed):
        got = torch.autograd.grad(model(x=x).sum(), list(net.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_loops_that_are_not_pipelined_have_a_reason() -> None:
    fits = gn.compile(randomised(NETS["lstm"]()), backend="interpret", skip=("fit",))
    assert "one of them fits one multiprocessor, which has no cost model" in fits.explain()
    skipped = gn.compile(randomised(NETS["lstm"]()), backend="interpret", skip=(*SKIP, "stacked"))
    assert TOGETHER not in skipped.explain() and "stacked on it" not in skipped.explain()


class Whole(nn.Module):
    """Two loops of which the upper needs more of the lower than each position's own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.low, self.high = nn.Linear(3 + HIDDEN, HIDDEN), nn.Linear(2 * HIDDEN, HIDDEN)

    def graph(self, g: gn.Graph) -> None:
        x, turned = g.input("x", (3,), over="time"), self.how == "other way"
        a = g.state("a", (HIDDEN,))
        a.next = torch.tanh(self.low(torch.cat([x, a])))
        last = gn.last(a.next, over="time")
        b = g.state(
            "b", (HIDDEN,), delay=-1 if turned else 1, init=last if self.how == "start" else None
        )
        read = {"last": last, "reversed": gn.reverse(a.next, "time"), "softmax": a.next}
        seen = read.get(self.how, a.next)
        if self.how == "softmax":
            seen = gn.softmax(a.next, over="time")
        b.next = torch.tanh(self.high(torch.cat([seen, b])))
        g.output("y", b.next)


@pytest.mark.parametrize("how", ["start", "last", "reversed", "softmax", "other way"])
@pytest.mark.usefixtures("always")
def test_what_needs_more_than_a_position_stays_apart(how: str) -> None:
    net = randomised(Whole(how))
    model = gn.compile(net, backend="interpret", skip=SKIP)
    x = doubles(2, 2, 3)
    wanted = gn.compile(net, backend="reference")(x=x)
    torch.testing.assert_close(model(x=x), wanted, rtol=1e-12, atol=1e-12)
    assert not any(TOGETHER in reason for reason in reasons(model))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "three", "gru_before"])
@pytest.mark.usefixtures("always")
def test_whoever_runs_first_the_bits_are_the_same(name: str) -> None:
    """Under the checker, outputs and exchanges poisoned, the blocks in seeded random turns."""
    net = randomised(NETS[name]())
    model, x = gn.compile(net, backend="interpret", skip=SKIP), doubles(3, 3, 3)
    model(x=x).sum().backward()
    kernels = [k for lowering in lowerings(model) for k in lowering.launchers.values()]
    kept = {}
    for k in kernels:
        names, inputs = k.function.arg_names, len(k.source.program.tensors)
        kept[k.source.name] = names[inputs : len(k.source.pointers) + len(k.source.exchanges)]  # type: ignore[attr-defined]
    wanted = [model(x=x), *torch.autograd.grad(model(x=x).sum(), list(net.parameters()))]
    for seed in range(4):
        with simulate.checking(kept, seed=seed) as reports:
            y = model(x=x)
            got = [y, *torch.autograd.grad(y.sum(), list(net.parameters()))]
        assert all(torch.equal(a, b) for a, b in zip(got, wanted))
        assert len(reports) == 2 and all(r.programs == 2 and r.atomics for r in reports)
