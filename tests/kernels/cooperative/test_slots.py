"""Exchange buffers have slots enough, whatever states, delays and loops a launch mixes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels import simulate
from tests.backends.triton.places import INTERPRET
from tests.backends.triton.test_checked import launchers, outputs

SIZE = 20


class Cell(nn.Module):
    """States of given delays, each computed from the one before it; negative ones look ahead.

    `projected` is the width of a map of the state that is read, if there is one. With `norm`, sums
    over all units are exchanged as well. States start from zero, or all from one input (`given`).
    """

    def __init__(self, *delays: int, projected: int = 0, norm: bool = False, given: bool = False):
        super().__init__()
        self.delays, self.norm, self.given = delays, norm, given
        inside = projected or SIZE
        self.down = nn.Linear(SIZE, inside) if projected else nn.Identity()
        self.enc = nn.ModuleList(nn.Linear(5, SIZE) for _ in delays)
        self.rec = nn.ModuleList(nn.Linear(inside, SIZE) for _ in delays)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="time")
        init = torch.tanh(g.input("start", (SIZE,))) if self.given else None
        states = [
            g.state(f"u{k}", (SIZE,), over="time", delay=d, init=init)
            for k, d in enumerate(self.delays)
        ]
        for k, state in enumerate(states):
            read = self.rec[k](self.down(states[k - 1]))
            if self.norm:
                read = torch.nn.functional.layer_norm(read, (SIZE,))
            state.next = torch.tanh(read + self.enc[k](x))
        g.output("y", torch.cat([s.next for s in states]))


class Loops(nn.Module):
    """Independent loops side by side, their states of given delays."""

    def __init__(self, *delays: int):
        super().__init__()
        self.cells = nn.ModuleList(Cell(d) for d in delays)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="time")
        for k, cell in enumerate(self.cells):
            u = g.state(f"u{k}", (SIZE,), over="time", delay=cell.delays[0])
            u.next = torch.tanh(cell.rec[0](u) + cell.enc[0](x))
            g.output(f"y{k}", u.next)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "delay 1": lambda: Cell(1),
    "delay 2": lambda: Cell(2),
    "delay 3": lambda: Cell(3),
    "delay 4": lambda: Cell(4),
    "delay 2, from the end": lambda: Cell(-2),
    "delay 2, one start": lambda: Cell(2, given=True),
    "delay 3, one start": lambda: Cell(3, given=True),
    "delays 1 and 2": lambda: Cell(1, 2),
    "delays 1 and 1, one start": lambda: Cell(1, 1, given=True),
    "delays 2 and 3": lambda: Cell(2, 3),
    "delays 4, 1 and 2": lambda: Cell(4, 1, 2),
    "delays 2 and 1, from the end": lambda: Cell(-2, -1, given=True),
    "delay 1, norm": lambda: Cell(1, norm=True),
    "delay 2, norm": lambda: Cell(2, norm=True),
    "delays 1 and 3, norm": lambda: Cell(1, 3, norm=True),
    "delay 1, projected": lambda: Cell(1, projected=12),
    "delay 2, projected": lambda: Cell(2, projected=12),
    "delays 2 and 1, projected, norm": lambda: Cell(2, 1, projected=12, norm=True),
    "loops of delays 1 and 2": lambda: Loops(1, 2),
    "loops of delays 3 and 2": lambda: Loops(3, 2),
    "loops of delays 2 and 1, from the end": lambda: Loops(-2, -1),
}
# the mixtures that are checked by default
DEFAULT = [("delay 2", False, 0), ("loops of delays 1 and 2", False, 0)]


def compiled(net: nn.Module, strategy: str = "cooperative") -> gn.Compiled:
    torch.manual_seed(0)
    for p in net.parameters():
        p.data = torch.randn(p.shape) * 0.3
    return gn.compile(net.double(), backend="interpret", skip=INTERPRET.skip(strategy))


def given(net: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    found = {"x": torch.randn(3, 6, 5).double()}
    if getattr(net, "given", False):
        found["start"] = torch.randn(3, SIZE).double()
    return {name: x.requires_grad_() for name, x in found.items()}


def run(model: gn.Compiled, inputs: Mapping[str, torch.Tensor], ragged: bool) -> list[torch.Tensor]:
    """Outputs and gradients of a call; `ragged` examples have lengths of their own."""
    lengths = {"time": torch.tensor([6, 3, 1])} if ragged else None
    found = model(**inputs, lengths=lengths)
    outputs = [*found.values()] if isinstance(found, dict) else [found]
    loss = sum(y.nan_to_num(0).square().sum() for y in outputs)
    return [*outputs, *torch.autograd.grad(loss, [*inputs.values(), *model.parameters()])]


MIXTURES = [*itertools.product(CELLS, (False, True), (0, 1))]


@pytest.mark.parametrize(
    ("name", "ragged", "seed"),
    [pytest.param(*m, marks=[] if m in DEFAULT else pytest.mark.proof) for m in MIXTURES],
)
def test_no_mixture_of_states_has_a_race(name: str, ragged: bool, seed: int) -> None:
    net = CELLS[name]()
    inputs, model = given(net), compiled(net)
    run(model, inputs, ragged)
    stores = {k.source.name: outputs(k) for k in launchers(model)}
    with simulate.checking(stores, seed=seed) as reports:
        got = run(model, inputs, ragged)
    assert len(reports) >= 2 and all(r.programs > 1 for r in reports)
    want = run(gn.compile(net, backend="reference"), inputs, ragged)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11, equal_nan=True)


@pytest.mark.parametrize("delays", [(1, 2), (2, 1), (1, 3)], ids=str)
def test_two_loops_in_one_launch_share_the_slots_of_the_one_with_more(delays):
    model = compiled(Loops(*delays))
    model.source()
    saving = next(k.source for k in launchers(model) if k.source.name.endswith("saving"))
    assert saving.loops == 2
    assert saving.slots == 3
