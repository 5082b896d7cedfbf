"""Rematerialisation: the values that a kernel's backward recomputes instead of loading."""

import pytest
import torch
from torch import nn

import graphnn as gn


class Gate(nn.Module):
    """A state whose backward reads a sum, a product and a sigmoid of the forward pass."""

    def __init__(self, width=8):
        super().__init__()
        self.width, self.rec = width, nn.Linear(width, width)

    def graph(self, g):
        x = g.input("x", (self.width,), over="time")
        z = g.state("z", (self.width,))
        gate = torch.sigmoid(self.rec(z))
        mixed = gate * x
        z.next = torch.tanh(gate * x) * (mixed + z)
        g.output("z", z.next)


def saved_and_recomputed(recompute, backend="interpret"):
    text = gn.compile(Gate(), backend=backend, recompute=recompute).explain()
    lines = [line.strip() for line in text.splitlines()]
    saved, again = (
        next(line for line in lines if line.startswith(word)) for word in ("saved", "recomputed")
    )
    return saved.split(": ", 1)[1], again.split(": ", 1)[1]


def test_sums_and_products_are_recomputed_and_exponentials_saved():
    saved, again = saved_and_recomputed(None)
    assert "sigmoid" in saved and "tanh" in saved and "add" not in saved
    assert "add" in again and "sigmoid" not in again and "tanh" not in again


def test_the_switch_saves_all_or_recomputes_all():
    assert saved_and_recomputed(False)[1] == "nothing" and "add" in saved_and_recomputed(False)[0]
    assert "tanh" in saved_and_recomputed(True)[1]


def test_torch_saves_all_by_default():
    assert saved_and_recomputed(None, "torch") == saved_and_recomputed(False, "torch")


@pytest.mark.parametrize("recompute", [None, False, True])
def test_gradients_are_the_same(recompute):
    torch.manual_seed(0)
    net = Gate().double()
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
    got, wanted = (
        torch.autograd.grad(model(x=x).square().sum(), [x, *model.parameters()])
        for model in (
            gn.compile(net, backend="interpret", recompute=recompute),
            gn.compile(net, backend="reference"),
        )
    )
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
