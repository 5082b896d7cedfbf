"""Each part of a module's call has its own name in `explain()` and in generated code."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.ops.builder import owner

CENTRED = "mean mean.sum centred squared variance variance.sum variance_eps rstd normalised"
GATES = "input_gate input_gate.sum forget_gate forget_gate.sum output_gate output_gate.sum"
# a module, its call on x (4,), and the names of its parts
CALLS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], str]] = {
    "LayerNorm": (lambda: nn.LayerNorm(4), lambda m, x: m(x), f"{CENTRED} scaled"),
    "GroupNorm": (
        lambda: nn.GroupNorm(2, 4),
        lambda m, x: m(x.reshape(1, 4, 1)),
        f"{CENTRED} scaled grouped ungrouped per_channel",
    ),
    "InstanceNorm1d": (
        lambda: nn.InstanceNorm1d(2, affine=True),
        lambda m, x: m(x.reshape(1, 2, 2)),
        f"{CENTRED} scaled per_channel",
    ),
    "RMSNorm": (
        lambda: nn.RMSNorm(4),
        lambda m, x: m(x),
        "squared mean_square mean_square.sum variance_eps rstd normalised",
    ),
    "LSTMCell": (
        lambda: nn.LSTMCell(4, 2),
        lambda m, x: m(x, (x[:2], x[2:]))[0],
        f"input hidden gates new new.sum memory memory.kept memory.added memory.tanh {GATES}",
    ),
    "GRUCell": (
        lambda: nn.GRUCell(4, 2),
        lambda m, x: m(x, x[:2]),
        "input input.reset input.update input.new hidden hidden.reset hidden.update hidden.new "
        "hidden.weighted reset_gate reset_gate.sum update_gate update_gate.sum update_gate.rest "
        "new new.sum new.reset new.weighted",
    ),
    "RNNCell": (lambda: nn.RNNCell(4, 2), lambda m, x: m(x, x[2:]), "input hidden sum"),
}


class CalledOnce(nn.Module):
    """Calls a module named `part` once."""

    def __init__(self, name: str):
        super().__init__()
        make, self.use, self.roles = CALLS[name]
        self.part = make()

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.use(self.part, g.input("x", shape=(4,), over="time")))


@pytest.mark.parametrize("name", CALLS)
def test_parts_are_named_after_their_roles(name: str) -> None:
    net = CalledOnce(name)
    ir = gn.compile(net).ir
    found = {n.name for n in ir if n.name.startswith("part") and n.op != "parameter"}
    assert not any(n.op == "opaque" for n in ir)
    assert found == {"part", *(f"part.{role}" for role in net.roles.split())}
    assert {owner(name) for name in found} == {"part"}


def test_generated_code_and_explain_use_the_role_names() -> None:
    model = gn.compile(CalledOnce("LayerNorm"), skip=("hoist",))
    assert "part_rstd = " in model.source() and "norm.rstd" not in model.source()
    rows = [line.split()[0] for line in model.explain().splitlines() if "part" in line]
    assert {"part.mean", "part.rstd", "part.centred"} <= set(rows)


class FunctionOnly(nn.Module):
    """Calls a function outside any module."""

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", shape=(4,), over="time")
        g.output("y", nn.functional.layer_norm(x, (4,)))


def test_functions_outside_modules_have_no_role_names() -> None:
    ir = gn.compile(FunctionOnly()).ir
    assert {n.name for n in ir} == {"x", ""}
    torch.testing.assert_close(
        gn.compile(FunctionOnly())(x=torch.ones(1, 2, 4)), torch.zeros(1, 2, 4)
    )
