"""Loops that many thread blocks share, and whose steps take all of an axis: a block has one row.

Every kernel runs unmodified, its programs in turns. No GPU has run one yet.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.triton import strategy as kernel_strategy
from graphnn.kernels import simulate
from graphnn.kernels.codegen.persistent import LoopSource
from graphnn.kernels.cooperative.plan import sharding
from graphnn.kernels.feasibility import fit
from graphnn.kernels.feasibility.fit import Verdict
from graphnn.kernels.runtime.cooperative_launch import CooperativeLauncher
from tests.backends.triton.places import INTERPRET, choices, strategies
from tests.backends.triton.test_block_axis import DECODERS, Decoder, Machine
from tests.backends.triton.test_cooperative import ATTEMPTS, changed, launchers, stores
from tests.networks.equality import compare
from tests.nn.common import doubles, randomised

SLOW = pytest.mark.slow
SKIP = INTERPRET.skip("cooperative")


@pytest.mark.parametrize(
    "name, places",
    [
        ("dot", 1),
        ("odd", 7),
        *(
            pytest.param(*x, marks=SLOW)
            for x in (("additive", 1), ("additive", 7), ("dot", 7), ("odd", 1))
        ),
    ],
)
def test_a_decoder_is_one_kernel_a_direction(name: str, places: int) -> None:
    net = randomised(Decoder(**DECODERS[name]))  # type: ignore[arg-type]
    given = {"x": doubles(3, 3, 3), "source": doubles(3, places, net.size)}
    lengths = {"target": torch.tensor([3, 1, 2]), "source": torch.tensor([places, 1, places])}
    (model,) = compare(net, given, lengths, given=True, backend="interpret", skips=[SKIP])
    assert strategies(model) == {"cooperative"}


@pytest.mark.parametrize("name", [pytest.param("additive", marks=SLOW), "odd"])
def test_blocks_that_share_a_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding, "MIN_ROWS", 1)
    monkeypatch.setattr(sharding, "MIN_ROW_ELEMENTS", 2)
    net = randomised(Decoder(**DECODERS[name]))  # type: ignore[arg-type]
    given = {"x": doubles(3, 3, 3), "source": doubles(3, 7, net.size)}
    lengths = {"target": torch.tensor([3, 1, 2]), "source": torch.tensor([7, 1, 5])}
    (model,) = compare(net, given, lengths, given=True, backend="interpret", skips=[SKIP])
    assert "group of" in model.source() and strategies(model) == {"cooperative"}


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"hidden": 20}, marks=SLOW),
        {"controller": "feedforward", "start": "learned", "read_heads": 2, "hidden": 36},
    ],
    ids=["lstm", "feedforward"],
)
def test_a_neural_turing_machine_is_one_kernel_a_direction(options: dict[str, object]) -> None:
    net = randomised(Machine(**options))  # type: ignore[arg-type]
    x = doubles(3, 2, 3)
    lengths = {"time": torch.tensor([2, 1, 2])}
    (model,) = compare(net, {"x": x}, lengths, backend="interpret", skips=[SKIP])
    assert strategies(model) == {"cooperative"}


class Best(nn.Module):
    """A memory that reads and writes its best slots, and a recurrent layer next to it."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.mix = nn.Linear(3, 8), nn.Linear(8, 8)

    def graph(self, g: gn.Graph) -> None:
        g.axis("slot", 5)
        x = self.enc(g.input("x", (3,), over="time"))
        m, h = g.state("m", (8,), along="slot", init=0.1), g.state("h", (8,))
        score = gn.dot(m, x) + gn.index("slot", graph=g) * 0.3
        h.next = torch.tanh(self.mix(h) + gn.lookup(x, m, m, over="slot", topk=2))
        m.next = torch.tanh(m + torch.where(gn.top(score, 3, over="slot"), h, 0.5 * x))
        g.output("y", h.next)


def test_the_best_slots_of_a_memory_are_found_in_a_step() -> None:
    given, lengths = {"x": doubles(3, 4, 3)}, {"time": torch.tensor([4, 1, 3])}
    for strategy in ("resident", "cooperative"):
        skips = [INTERPRET.skip(strategy)]
        (model,) = compare(randomised(Best()), given, lengths, backend="interpret", skips=skips)
        assert strategies(model) == {strategy}


def test_a_loop_that_spills_in_one_block_is_shared_by_many(monkeypatch: pytest.MonkeyPatch) -> None:
    spilled = "spills: 4 instructions, 8 bytes per thread"

    def best(*given: Any, **options: Any) -> tuple[LoopSource, Verdict]:
        source, verdict = fit.choose_kernel(*given, **options)
        return source, replace(verdict, reason=f"it fits; {spilled}", tolerated=(spilled,))

    monkeypatch.setattr(kernel_strategy, "choose_kernel", best)
    for skip, strategy in ((), "cooperative"), (("cooperative",), "resident"):
        net = Machine(hidden=32).to(torch.bfloat16)
        model = gn.compile(net, backend="interpret", skip=("beside", *skip))
        model.program()
        for choice in choices(model):
            assert choice.strategy == strategy
            by_one = "not by one block: " if strategy == "cooperative" else ""
            assert f"{by_one}it fits; {spilled}" in choice.reason


# under the checker


def decoder() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    net = randomised(Decoder())
    return net, {"x": doubles(3, 2, 3), "source": doubles(3, 4, net.size)}  # type: ignore[arg-type]


def machine() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    return randomised(Machine(hidden=8)), {"x": doubles(2, 2, 3)}


NETS = {"decoder": decoder, "machine": machine}


class Run:
    """A network's kernels, and what they give."""

    def __init__(self, name: str):
        self.net, given = NETS[name]()
        self.given = {k: v.requires_grad_() for k, v in given.items()}
        self.model = gn.compile(self.net, backend="interpret", skip=SKIP)
        self.wanted = self()
        self.kernels = launchers(self.model)
        self.outputs = [x for k in self.kernels for x in stores(k)[0]]
        self.kept = {k.source.name: [x for names in stores(k) for x in names] for k in self.kernels}

    def __call__(self) -> list[torch.Tensor]:
        y = self.model(**self.given)
        wanted = [*self.given.values(), *self.net.parameters()]
        return [y, *torch.autograd.grad(y.sin().sum(), wanted)]


once = functools.cache(Run)


@pytest.mark.parametrize("seeds", ATTEMPTS, ids=str)
@pytest.mark.parametrize("name", NETS)
def test_whoever_runs_first_the_bits_are_the_same(name: str, seeds: range) -> None:
    run, turns = once(name), set()
    for seed in seeds:
        with simulate.checking(run.kept, seed=seed, written=run.outputs) as reports:
            got = run()
        assert all(map(torch.equal, got, run.wanted))
        assert len(reports) == 2 and all(r.programs > 1 and r.atomics for r in reports)
        turns.add(tuple(r.turns for r in reports))
    assert len(turns) > 1


def test_blocks_of_one_row_give_the_same_bits_whoever_runs_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharding, "MIN_ROWS", 1)
    monkeypatch.setattr(sharding, "MIN_ROW_ELEMENTS", 2)
    run = Run("decoder")
    with simulate.checking(run.kept, seed=1, written=run.outputs):
        assert all(map(torch.equal, run(), run.wanted))


Change = Callable[[str], str]
FAULTS: dict[str, tuple[Change, type]] = {
    "a missing arrival": (
        lambda text: re.sub(r"\n        arrive\(arrived\)", "", text),
        simulate.Deadlock,
    ),
    "one exchange slot too few": (
        lambda text: text.replace("next_slot = 1 - slot", "next_slot = 0").replace(
            "slot = step % 2", "slot = 0"
        ),
        simulate.Race,
    ),
    "no wait": (
        lambda text: re.sub(r"\n        patience = wait\(.*?\)\n", "\n", text),
        simulate.KernelFault,
    ),
    "a row that another block has": (
        lambda text: re.sub(r"(row = tl.where\(.*) \+ block,", r"\1,", text),
        simulate.KernelFault,
    ),
    "a missing mask of rows": (
        lambda text: text.replace(
            "has_row = tl.full([1, 1], row, tl.int32) < n_rows",
            "has_row = tl.full([1, 1], row, tl.int32) >= 0",
        ),
        simulate.KernelFault,
    ),
    "a missing mask of lanes": (
        lambda text: text.replace(
            "live_pos = pos < tl.where(has_row, ", "live_pos = pos < 1 + ("
        ).replace(", 0)\n    pos_row", ")\n    pos_row"),
        simulate.KernelFault,
    ),
}


# a decoder's step has five barriers: one slot would do
CASES = [("decoder", fault) for fault in FAULTS if "slot" not in fault]
CASES += [("machine", fault) for fault in FAULTS if "another" not in fault and "lanes" not in fault]


@pytest.mark.parametrize("name, fault", CASES)
def test_a_fault_in_emitted_text_is_named(name: str, fault: str) -> None:
    run, (change, kind) = once(name), FAULTS[fault]
    sound = next(k for k in run.kernels if "saving" in k.source.name)
    faulty = changed(sound, change)
    kept = {sound.source.name: run.kept[sound.source.name]}
    with pytest.raises(kind, match=sound.source.name):
        for seed in range(2):
            with simulate.checking(kept, seed=seed, written=stores(sound)[0]):
                made_up(faulty)


KNOWN = {"batch": 3, "time": 3, "target": 3, "source": 4, "slot": 5}


def made_up(launcher: CooperativeLauncher) -> None:
    """Run a kernel on tensors of random numbers."""
    shapes = [[*(KNOWN[a] for a in t.axes), *t.shape] for t in launcher.source.program.tensors]
    launcher([doubles(*shape) for shape in shapes], KNOWN, torch.float64)
