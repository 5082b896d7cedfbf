"""The graph after each pass: `model.passes()` and `graphnn explain --after`."""

from __future__ import annotations

import pathlib

import pytest
import torch

import graphnn as gn
from graphnn.cli import main
from graphnn.ir.graph import IR
from graphnn.planner.observe import recording
from tests.planner.pass_examples import Net, gated
from tests.planner.test_pipeline import Decoder

FILE = """
import graphnn as gn

rnn = gn.nn.RNN(3, 4)
"""


def test_passes_returns_the_graph_after_each_pass_of_each_part() -> None:
    model = gn.compile(Net(gated))
    found = model.passes()
    names = [name for name, _ in found]
    for name in (
        *("promote_dtypes", "hoist", "loop z: extract", "loop z, derived: differentiate"),
        *("loop z, backward: simplify", "z_saving: add_matmul", "z_backward: multiply_add"),
    ):
        assert name in names
    assert all(isinstance(ir, IR) for _, ir in found)
    graphs = dict(found)
    assert str(graphs["memory_order"]) == str(model.plan.ir)
    assert "lerp" in {n.op for n in graphs["multiply_add"]}
    assert "lerp" not in {n.op for n in graphs["horizontal"]}


def test_passes_starts_from_the_traced_graph() -> None:
    g = gn.Graph("wired")
    x, wire = g.input("x", (2,), over="time"), g.state("wire", (2,), delay=0)
    g.output("y", wire * 2)
    wire.next = x + 1
    graphs = dict(gn.compile(g).passes())
    assert "delay" in {n.op for n in graphs["promote_dtypes"]}
    assert "delay" not in {n.op for n in graphs["inline_wires"]}


def test_passes_does_not_change_the_generated_program() -> None:
    model = gn.compile(Net(gated))
    program = model.program()
    model.passes()
    assert model.program() is program and model.programs == (program,)


def test_passes_can_show_a_ragged_call_and_a_single_step() -> None:
    model = gn.compile(Decoder(causal=True))
    plain, ragged = model.passes(), model.passes(lengths=("time",))
    assert str(dict(ragged)["lengths"]) != str(dict(plain)["lengths"])
    found = dict(model.passes("time"))
    assert "axis_put" in {n.op for n in found["a step along time: step_graph"]}
    encoder = dict(gn.compile(Decoder(causal=False)).passes("time"))
    assert {n.attrs["key"] for n in encoder["steps along time: invariants"] if n.op == "input"} == {
        "x",
        "held source",
    }


def test_passes_on_the_reference_backend_ends_with_the_plan() -> None:
    names = [name for name, _ in gn.compile(Net(gated), backend="reference").passes()]
    assert names[-1] == "memory_order"


def test_recording_covers_only_passes_inside_its_context() -> None:
    with recording() as found:
        model = gn.compile(Net(gated))
    before = len(found)
    model(x=torch.randn(2, 3, 4))
    assert [name for name, _ in found] == ["promote_dtypes", "inline_wires"]
    assert len(found) == before


@pytest.mark.parametrize(
    "name, shown, axes",
    [
        ("hoist", "hoist", "batch, time"),
        ("merge", "horizontal", "batch, time"),
        ("extract", "loop rnn.h: extract", "time, batch"),
        ("loop rnn.h: extract", "loop rnn.h: extract", "time, batch"),
    ],
)
def test_explain_after_a_pass_prints_the_graph(
    name: str, shown: str, axes: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nets.py"
    file.write_text(FILE)
    assert main(["explain", f"{file}:rnn", "--after", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"after {shown}: graph rnn (f32), axes {axes}\n")
    assert f": f32[4] {{{axes}}} = tanh %" in out


def test_explain_after_an_unknown_pass_lists_the_passes_that_ran(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nets.py"
    file.write_text(FILE)
    assert main(["explain", f"{file}:rnn", "--after", "hoisting"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("graphnn: no pass 'hoisting' runs for this network; these do: ")
    assert "hoist" in text
