"""The text of a graph: a line for each node, and the lines by which two graphs differ."""

from __future__ import annotations

import re

import torch
from torch import nn

import graphnn as gn
from graphnn.ir import printer
from tests.attention import networks


class Elman(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4, bias=False), nn.Linear(3, 4)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (3,), over="time")
        h = g.state("h", (4,))
        h.next = torch.tanh(self.outer(x) + self.inner(h))
        g.output("y", h.next)


def lined(text: str) -> str:
    """A text without the numbers of lines in this file, nor the width of columns."""
    text = re.sub(r"test_printer\.py:\d+", "test_printer.py:N", text)
    return re.sub(r" +#", "  #", text)


def test_a_graph_is_one_line_per_node() -> None:
    expected = """\
graph elman (f32), axes batch, time
  %0: f32[3] {batch, time} = input x  # test_printer.py:N
  %1: f32[] {} = const 0.0
  %2: f32[4] {batch, time} = delay %1 next=%10 axis=time steps=1  # h test_printer.py:N
  %3: f32[4, 3] {} = parameter outer.weight  # test_printer.py:N
  %4: f32[4] {} = parameter outer.bias  # test_printer.py:N
  %5: f32[4] {batch, time} = einsum %0, %3 sub=y,zy->z  # outer test_printer.py:N
  %6: f32[4] {batch, time} = add %5, %4  # outer test_printer.py:N
  %7: f32[4, 4] {} = parameter inner.weight  # test_printer.py:N
  %8: f32[4] {batch, time} = einsum %2, %7 sub=y,zy->z  # inner test_printer.py:N
  %9: f32[4] {batch, time} = add %6, %8  # test_printer.py:N
  %10: f32[4] {batch, time} = tanh %9  # test_printer.py:N
  y = %10"""
    assert lined(str(gn.compile(Elman()).ir)) == expected


def test_the_representation_of_a_graph_is_one_short_line() -> None:
    assert repr(gn.compile(Elman()).ir) == "<IR elman: 11 nodes, 1 states, outputs y>"


def test_an_attention_shows_the_graph_inside_it() -> None:
    text = str(gn.compile(networks.Additive()).plan.ir)
    (line,) = [x for x in text.splitlines() if " = attend " in x]
    assert re.search(r"= attend %\d+, .*# attention over source networks\.py:\d+", line)
    assert "    | graph additive (f32)" in text
    assert re.search(r"\|   %\d+: f32\[8\] \{batch, target\} = given %\d+", text)


def test_a_slice_shows_its_range_and_a_state_the_stop_of_its_loop() -> None:
    g = gn.Graph("cut")
    x = g.input("x", (6,), over="time", dtype=torch.bfloat16)
    g.output("y", x[1:5:2])
    text = str(gn.compile(g).ir)
    assert "bf16[2] {batch, time} = slice %0 [1:5:2] dim=0" in text


def test_every_operation_of_a_plan_can_be_printed() -> None:
    for net in (gn.nn.LSTM(3, 4), networks.Story(), networks.Additive()):
        plan = gn.compile(net).plan
        lines = str(plan.ir).splitlines()
        assert len([x for x in lines if x.startswith("  %")]) == len(plan.ir)


def test_a_diff_shows_the_lines_that_a_pass_removed_and_added() -> None:
    model = gn.compile(Elman())
    assert printer.diff(model.ir, model.ir) == ""
    other = model.ir.copy()
    other.outputs = {"z": 10}
    assert printer.diff(model.ir, other).split("\n") == ["-  y = %10", "+  z = %10"]
