"""Rematerialisation: values that a kernel's backward recomputes instead of loading."""

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
    saved, recomputed = (
        next(line for line in lines if line.startswith(label)) for label in ("saved", "recomputed")
    )
    return saved.split(": ", 1)[1], recomputed.split(": ", 1)[1]


def test_sums_and_products_are_recomputed_and_exponentials_saved():
    saved, recomputed = saved_and_recomputed(None)
    assert "sigmoid" in saved and "tanh" in saved and "add" not in saved
    assert "add" in recomputed and "sigmoid" not in recomputed and "tanh" not in recomputed


def test_recompute_false_saves_all_values_and_true_recomputes_all():
    assert saved_and_recomputed(False)[1] == "nothing" and "add" in saved_and_recomputed(False)[0]
    assert "tanh" in saved_and_recomputed(True)[1]


def test_the_torch_backend_saves_all_values_by_default():
    assert saved_and_recomputed(None, "torch") == saved_and_recomputed(False, "torch")


@pytest.mark.parametrize("recompute", [None, False, True])
def test_gradients_do_not_depend_on_recompute(recompute):
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
