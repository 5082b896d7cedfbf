"""Kernels whose names would be equal: names are cut after 80 characters."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphnn as gn


class TwoDirections(nn.Module):
    """Two loops over one axis, in both directions, with states of the given names."""

    def __init__(self, forward: str, backward: str):
        super().__init__()
        self.names = {forward: 1, backward: -1}
        self.maps = nn.ModuleList(nn.Linear(4, 4) for _ in self.names)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (4,), over="time")
        for k, (name, delay) in enumerate(self.names.items()):
            h = g.state(name, (4,), delay=delay)
            h.next = torch.tanh(self.maps[k](h) + x)
            g.output(f"y{k}", h.next)


def check(net: nn.Module, width: int) -> None:
    """Checks outputs and gradients in float64 against the reference, also of a ragged batch."""
    net, x = net.double(), torch.randn(3, 5, width, dtype=torch.float64)
    for lengths in (None, {"time": torch.tensor([5, 2, 4])}):
        found = []
        for backend in ("reference", "interpret"):
            y = gn.compile(net, backend=backend)(x=x, lengths=lengths)
            outputs = list(y.values()) if isinstance(y, dict) else [y]
            loss = sum(o.square().sum() for o in outputs)
            found.append([*outputs, *torch.autograd.grad(loss, list(net.parameters()))])
        for wanted, got in zip(*found, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [1, 36, 200])
def test_loops_side_by_side_with_long_names_run_their_own_kernels(length: int) -> None:
    torch.manual_seed(0)
    check(TwoDirections("f" * length, "b" * length), 4)


@pytest.mark.parametrize("kind", [gn.nn.MultiplicativeLSTM, gn.nn.HyperLSTM, gn.nn.GRU])
def test_bidirectional_cells_with_several_states(kind: type) -> None:
    torch.manual_seed(0)
    check(kind(3, 4, bidirectional=True), 3)
