"""Loops whose steps take all of an axis, as the rows of a tile in one kernel."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.triton.loops import program_builder
from graphnn.kernels import simulate
from tests.backends.triton.places import INTERPRET, strategies
from tests.backends.triton.test_checked import launchers, outputs
from tests.networks.equality import compare
from tests.nn.common import doubles, randomised

GIVEN = {"lengths": {"time": torch.tensor([4, 1, 3])}}


class Machine(nn.Module):
    """A Neural Turing Machine over time, and a map of what it says."""

    def __init__(self, slots: int = 5, width: int = 4, hidden: int = 8, **options: object):
        super().__init__()
        self.ntm = gn.nn.NTM(3, hidden, slots, width, **options)  # type: ignore[arg-type]
        self.out = nn.Linear(self.ntm.output_size, 3)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.out(self.ntm(g.input("x", (3,), over="time"))))


class Written(nn.Module):
    """A memory of which each step takes all: what `law` makes of it, and a map of each slot."""

    def __init__(self, law: str, width: int = 4, slots: int = 5):
        super().__init__()
        self.law, self.width, self.slots = law, width, slots
        self.enc, self.mix = nn.Linear(3, width), nn.Linear(width, width)

    def graph(self, g: gn.Graph) -> None:
        g.axis("slot", self.slots)
        x = self.enc(g.input("x", (3,), over="time"))
        m = g.state("m", (self.width,), along="slot", init=0.1)
        place = gn.index("slot", graph=g) * 0.3
        score = gn.dot(m, x) + place
        now = torch.tanh(self.mix(m) + x * place)
        m.next = LAWS[self.law](now, score)
        g.output("y", gn.sum(m.next, over="slot"))
        g.output("s", score)


Law = Callable[[gn.Value, gn.Value], gn.Value]
LAWS: dict[str, Law] = {
    "sum": lambda m, s: m + 0.1 * gn.sum(s * m, over="slot"),
    "mean": lambda m, s: m - gn.mean(m, over="slot"),
    "top": lambda m, s: (
        torch.where(gn.top(s, 2, over="slot"), m, 0.5 * m)
        + 0.1 * torch.where(gn.top(m, 9, over="slot") | gn.top(m, 1, over="slot"), m, 0.0)
    ),
    "max": lambda m, s: m + gn.max(m, over="slot") * gn.max(s, over="slot"),
    "softmax": lambda m, s: m * gn.softmax(s, over="slot"),
    "softmax of vectors": lambda m, s: gn.softmax(m, over="slot") + 0.1 * m,
    "logsumexp": lambda m, s: m - gn.logsumexp(s, over="slot"),
    "roll": lambda m, s: m * gn.roll(s, 2, over="slot") - gn.roll(m, -1, over="slot"),
    "reverse": lambda m, s: m * gn.reverse(s, over="slot") + gn.reverse(m, over="slot"),
    "ends": lambda m, s: m + gn.last(m, over="slot") - gn.first(s, over="slot"),
    "attention": lambda m, s: torch.lerp(m, gn.sum(gn.softmax(s, "slot") * m, "slot"), 0.5),
}


@pytest.mark.parametrize("law", LAWS)
def test_one_kernel_a_direction(law: str) -> None:
    net, x = randomised(Written(law)), doubles(3, 4, 3)
    skips = [INTERPRET.skip("resident")]
    compare(net, {"x": x}, backend="interpret", skips=skips)
    (model,) = compare(net, {"x": x}, **GIVEN, given=True, backend="interpret", skips=skips)
    assert strategies(model) == {"resident"}


@pytest.mark.parametrize("batch, steps", [(1, 1), (2, 1), (1, 3), (0, 2)])
@pytest.mark.parametrize("width, slots", [(1, 1), (1, 17), (17, 2), (20, 33)])
def test_odd_sizes(batch: int, steps: int, width: int, slots: int) -> None:
    net = randomised(Written("attention", width, slots))
    skips = [INTERPRET.skip("resident")]
    compare(net, {"x": doubles(batch, steps, 3)}, backend="interpret", skips=skips)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 4},
        {"controller": "feedforward", "start": "learned", "read_heads": 2},
        pytest.param({"slots": 20, "width": 17, "hidden": 20, "reach": 2}, marks=pytest.mark.slow),
    ],
    ids=["lstm", "feedforward", "wide"],
)
def test_a_neural_turing_machine_is_one_kernel_a_direction(options: dict[str, object]) -> None:
    net = randomised(Machine(**options))  # type: ignore[arg-type]
    x, skips = doubles(2, 2, 3), [INTERPRET.skip("resident")]
    lengths = {"time": torch.tensor([2, 1])}
    (model,) = compare(net, {"x": x}, lengths, backend="interpret", skips=skips)
    assert strategies(model) == {"resident"}


class Decoder(nn.Module):
    """Attention to a source inside the loop over the target."""

    def __init__(self, hidden: int = 8, size: int = 6, **options: object):
        super().__init__()
        self.size = size
        self.decoder = gn.nn.AttentionDecoder(3, hidden, size, **options)  # type: ignore[arg-type]

    def graph(self, g: gn.Graph) -> None:
        x, source = g.input("x", (3,), over="target"), g.input("source", (self.size,), "source")
        g.output("y", self.decoder(x, source))


DECODERS: dict[str, dict[str, object]] = {
    "additive": {},
    "dot": {"score": "dot", "cell": "lstm"},
    "odd": {"hidden": 20, "size": 17, "attention_size": 33},
}


@pytest.mark.parametrize(
    "name, places",
    [
        ("additive", 7),
        ("dot", 1),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in (("additive", 1), ("dot", 7), ("odd", 1), ("odd", 7))
        ),
    ],
)
def test_a_decoder_is_one_kernel_a_direction(name: str, places: int) -> None:
    net = randomised(Decoder(**DECODERS[name]))  # type: ignore[arg-type]
    given = {"x": doubles(3, 3, 3), "source": doubles(3, places, net.size)}
    lengths = {"target": torch.tensor([3, 1, 2]), "source": torch.tensor([places, 1, places])}
    skips = [INTERPRET.skip("resident")]
    (model,) = compare(net, given, lengths, given=True, backend="interpret", skips=skips)
    assert strategies(model) == {"resident"}


def test_a_longer_source_goes_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_builder, "MAX_BLOCK_AXIS", 16)
    net, skips = randomised(Decoder()), [INTERPRET.skip("resident")]
    for places in (16, 17):
        given = {"x": doubles(2, 3, 3), "source": doubles(2, places, net.size)}
        compare(net, given, backend="interpret", skips=skips)
    text = gn.compile(net, backend="interpret", skip=("fit",)).explain()
    assert "for up to 16 positions of source, else step by step" in text


def test_a_source_that_is_not_there_gives_zeros() -> None:
    net, skips = randomised(Decoder()), [INTERPRET.skip("resident")]
    given = {"x": doubles(2, 2, 3), "source": doubles(2, 4, net.size)}
    lengths = {"source": torch.tensor([0, 4])}
    compare(net, given, lengths, backend="interpret", skips=skips)
    compare(net, {"x": doubles(0, 2, 3), "source": doubles(0, 4, 6)}, backend="interpret")


@pytest.mark.parametrize("kind", ["machine", "decoder"])
def test_the_checker_finds_no_fault(kind: str) -> None:
    net: nn.Module = randomised(Machine(hidden=4) if kind == "machine" else Decoder())
    x = doubles(2, 2, 3).requires_grad_()
    more = {} if kind == "machine" else {"source": doubles(2, 4, 6).requires_grad_()}
    lengths = {"time" if kind == "machine" else "target": torch.tensor([2, 1])}
    model = gn.compile(net, backend="interpret", skip=("fit",))

    def run() -> list[torch.Tensor]:
        y = model(x=x, **more, lengths=lengths)
        return [y, *torch.autograd.grad(y.sin().sum(), [x, *more.values(), *net.parameters()])]

    wanted = run()
    with simulate.checking({k.source.name: outputs(k) for k in launchers(model)}) as reports:
        got = run()
    assert all(map(torch.equal, got, wanted))
    assert [r.programs for r in reports] == [2, 2]


def test_the_numbers_of_half_precision_are_those_of_torch() -> None:
    net, x = randomised(Written("attention", 8, 9)), doubles(3, 5, 3)
    wanted = gn.compile(net, backend="reference")(x=x)["y"]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        small, given = randomised(Written("attention", 8, 9)).to(dtype), x.to(dtype)
        small.load_state_dict(net.state_dict())
        errors = [
            (gn.compile(small, backend, skip=skip)(x=given)["y"] - wanted).square().mean().sqrt()
            for backend, skip in (("interpret", ("fit",)), ("torch", ()))
        ]
        assert errors[0] <= 2 * errors[1]


def test_two_of_them_are_two_launches() -> None:
    """Independent loops go side by side in one launch; these do not."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc = nn.Linear(3, 2)

        def graph(self, g: gn.Graph) -> None:
            g.axis("slot", 5)
            x = self.enc(g.input("x", (3,), over="time"))
            a, b = (g.state(name, (2,), along="slot", init=0.1) for name in "ab")
            for k, m in enumerate((a, b)):
                m.next = torch.tanh(x[k] + m - gn.sum(m, over="slot"))
            g.output("y", gn.sum(a.next * b.next, over="slot"))

    net, x = randomised(Both()), doubles(2, 3, 3)
    skips = [INTERPRET.skip("resident")]
    (model,) = compare(net, {"x": x}, backend="interpret", skips=skips)
    assert "one program per row" in model.source() and strategies(model) == {"resident"}
    assert all(k.source.loops == 1 for k in launchers(model))


def test_the_source_has_comments_on_layouts() -> None:
    model = gn.compile(randomised(Machine()), backend="interpret", skip=("fit",))
    text = model.source()
    assert "one program per row, all of slot in it" in text
    assert re.search(r"axis_softmax\w* = softmax\(\w+, pos_row, live_pos_row, n_slot, 1\)", text)
