"""Verification of graphs: every fault that a pass can leave is found, and the pass is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

import graphnn as gn
from graphnn.errors import GraphnnError
from graphnn.ir.graph import IR
from graphnn.ir.verify import verify


def elman() -> IR:
    """The checked graph of z(t) = tanh(x(t) + z(t-1))."""
    g = gn.Graph("elman")
    x, z = g.input("x", (3,), over="time"), g.state("z", (3,))
    z.next = torch.tanh(x + z)
    g.output("y", z.next)
    return gn.compile(g).ir.copy()


def find(ir: IR, op: str) -> int:
    """The node of an operation."""
    return next(n.id for n in ir if n.op == op)


def lose_an_operand(ir: IR) -> None:
    del ir.nodes[find(ir, "input")]


def reverse_the_order(ir: IR) -> None:
    ir.nodes = dict(reversed(ir.nodes.items()))


def vary_over_an_unknown_axis(ir: IR) -> None:
    i = find(ir, "tanh")
    ir.nodes[i] = replace(ir[i], axes=frozenset({"batch", "space"}))


def lose_what_closes_a_state(ir: IR) -> None:
    ir.closings[find(ir, "delay")] = 99


def change_the_shape_of_the_next_state(ir: IR) -> None:
    i = find(ir, "tanh")
    ir.nodes[i] = replace(ir[i], shape=(4,))


def lose_an_output(ir: IR) -> None:
    ir.outputs["y"] = 99


FAULTS: dict[Callable[[IR], None], str] = {
    lose_an_operand: r"add_\d+ reads \[\d+\] before they exist",
    reverse_the_order: r"tanh_\d+ reads \[\d+\] before they exist",
    vary_over_an_unknown_axis: r"tanh_\d+ varies over unknown .*space",
    lose_what_closes_a_state: r"closing \d+ <- 99 names a lost node",
    change_the_shape_of_the_next_state: "state z and its next disagree",
    lose_an_output: r"outputs \['y'\] name lost nodes",
}


def test_a_sound_graph_passes() -> None:
    verify(elman(), "test")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_a_fault_is_found_and_names_the_pass(fault: Callable[[IR], None]) -> None:
    ir = elman()
    fault(ir)
    with pytest.raises(GraphnnError, match=f"^pass 'hoist': {FAULTS[fault]}"):
        verify(ir, "hoist")
