"""Kernels of a model run as PTX without a finding; with a barrier or an order left out, with one.

The barriers of LSTMs of 64 units are left out one by one, and what orders the blocks of a sharded
LSTM of 20 units.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.kernels import ptx
from graphnn.kernels.executors.compiled import compiled
from graphnn.kernels.executors.ptx import PtxExecutor


class Net(nn.Module):
    """An LSTM over time."""

    def __init__(self, hidden: int):
        super().__init__()
        self.lstm = gn.nn.LSTM(8, hidden)

    def graph(self, g):
        g.output("y", self.lstm(g.input("x", (8,), over="time")))


class Launched:
    """A compiled kernel with the arguments of its launch."""

    def __init__(self, launch: Any, target: str):
        kernel, self.given = compiled(launch, target)
        self.text, self.shared = kernel.asm["ptx"], kernel.metadata.shared
        self.grid, self.together = launch.grid, launch.together
        self.before = [x.clone() if torch.is_tensor(x) else x for x in self.given]

    def run(self, text: str) -> ptx.Report:
        """Execute a text on the arguments as they were."""
        given = [x.clone() if torch.is_tensor(x) else x for x in self.before]
        return ptx.run(ptx.parse(text), self.grid, given, self.shared, self.together)


def launches(monkeypatch, hidden, dtype, target, skip=()):
    """The launches of one training step of three positions."""
    found = []
    execute = PtxExecutor.execute

    def noted(self, launch):
        found.append(Launched(launch, self.target))
        return execute(self, launch)

    monkeypatch.setattr(PtxExecutor, "execute", noted)
    torch.manual_seed(0)
    model = gn.compile(Net(hidden).to(dtype), backend="ptx", target=target, skip=skip)
    x = torch.randn(3, 2, 8, dtype=dtype, requires_grad=True)
    model(x=x).float().square().sum().backward()
    return found


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_each_barrier_that_is_left_out_is_found(monkeypatch, dtype, target):
    """The first barrier of the loop of a backward follows one at its end, and is not needed."""
    unneeded = {torch.bfloat16: 1, torch.float32: 2}[dtype]
    kernels = launches(monkeypatch, 64, dtype, target)
    assert len(kernels) == 2
    for kernel in kernels:
        program = ptx.parse(kernel.text)
        assert kernel.run(kernel.text).races == []
        quiet = [b for b in program.barriers if not kernel.run(program.without(b)).races]
        assert len(program.barriers) >= 4
        assert len(quiet) <= (unneeded if "backward" in program.name else 0)


ORDERS = {
    "a relaxed load": ("ld.global.gpu.acquire", "ld.global.gpu.relaxed"),
    "an acquire of its own block": ("ld.global.gpu.acquire", "ld.global.cta.acquire"),
    "a relaxed arrival": ("red.global.gpu.release", "red.global.gpu.relaxed"),
    "an arrival for its own block": ("red.global.gpu.release", "red.global.cta.release"),
}


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_what_orders_blocks_and_is_left_out_is_found(monkeypatch, target):
    kernels = launches(monkeypatch, 20, torch.bfloat16, target, skip=("resident",))
    assert len(kernels) == 2
    for kernel in kernels:
        assert kernel.together
        assert kernel.run(kernel.text).races == []
        for name, (old, new) in ORDERS.items():
            assert old in kernel.text, name
            races = kernel.run(kernel.text.replace(old, new)).races
            assert any("released and acquired" in str(r) for r in races), name


def test_an_arrival_that_is_left_out_is_a_deadlock(monkeypatch):
    kernels = launches(monkeypatch, 20, torch.bfloat16, "sm_90", skip=("resident",))
    for kernel in kernels:
        text = re.sub(r"@%p\d+ red\.global\.gpu\.release[^;]*;", "", kernel.text)
        assert text != kernel.text
        with pytest.raises(ptx.PtxFault, match=r"a deadlock: .* blocks") as found:
            kernel.run(text)
        assert "acquire" in str(found.value.statement)
        assert found.value.source[0].file.endswith("barrier.py")


def test_races_of_a_kernel_name_the_line_and_the_argument(monkeypatch):
    kernel = launches(monkeypatch, 20, torch.bfloat16, "sm_90", skip=("resident",))[0]
    race = kernel.run(kernel.text.replace("acquire", "relaxed")).races[0]
    assert race.source[-1].file.endswith(".py")
    assert "source:     " in str(race)
    assert re.search(r"of argument \d+ \(\d+ bytes\), which block \d stored", str(race))
