"""The contents of pictures: boxes, edges, delays, copies and bands, without their positions."""

import re

import networkx as nx
import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.pictures import draw
from tests.pictures.networks import ALL, Both, Elman, Siamese, Translate, TuringMachine


def titles(scene):
    return [box.title for box in scene.boxes.values()]


def edges(scene):
    """Returns the edges as (title, title)."""
    return {(scene.boxes[e.source].title, scene.boxes[e.target].title) for e in scene.edges}


def test_an_elman_network_is_seven_boxes_and_one_loop():
    scene = draw(Elman()).scene
    assert sorted(titles(scene)) == ["dec", "enc", "rec", "x", "y", "z", "z(t−1)"]
    assert edges(scene) == {
        ("x", "enc"),
        ("enc", "rec"),
        ("z(t−1)", "rec"),
        ("rec", "z"),
        ("z", "z(t−1)"),
        ("z", "dec"),
        ("dec", "y"),
    }
    (back,) = [e for e in scene.edges if e.back]
    assert (back.state, back.mark) == ("z", "z⁻¹")


def test_boxes_describe_their_nodes():
    boxes = {b.title: b for b in draw(Elman()).scene.boxes.values()}
    assert boxes["enc"].lines == ("Linear(28, 64)", "64 over time")
    assert boxes["z"].lines == ("tanh", "64 over time")
    assert boxes["x"].kind == "input" and boxes["y"].kind == "output"


def test_edges_show_other_delays_and_directions():
    scene = draw(Both()).scene
    assert {e.state: e.mark for e in scene.edges if e.back} == {"far": "z⁻²", "ahead": "z⁺¹"}
    assert ("start", "far(t−2)") in edges(scene)
    assert [e.start for e in scene.edges if scene.boxes[e.source].title == "start"] == [True]


@pytest.mark.parametrize("network", ALL)
def test_only_back_edges_close_cycles(network):
    scene = draw(network()).scene
    assert nx.is_directed_acyclic_graph(scene.forward())
    states = {b.key for b in scene.boxes.values() if b.kind == "delay"}
    assert {e.target for e in scene.edges if e.state} == states


@pytest.mark.parametrize("network", ALL)
def test_every_module_is_drawn_once(network):
    net = network()
    modules = [b.shares for b in draw(net).scene.boxes.values() if b.kind == "module"]
    owners = {k for k, m in net.named_modules() if list(m.parameters(recurse=False)) and k}
    assert sorted(modules) == sorted(owners)


def test_a_module_with_three_calls_is_one_box_with_numbered_edges():
    scene = draw(Siamese()).scene
    (f,) = [b for b in scene.boxes.values() if b.title == "f"]
    assert f.lines == ("Linear(5, 5)", "3 calls")
    assert sorted(e.enters for e in scene.edges if e.target == f.key) == [1, 2, 3]
    assert sorted(e.leaves for e in scene.edges if e.source == f.key) == [1, 2, 3]
    (again,) = [e for e in scene.edges if e.back]
    assert again.enters == 2 and not again.mark, "a later call, not a delay"


def test_boxes_show_the_lines_of_the_user():
    boxes = {b.title: b.lines[0] for b in draw(TuringMachine()).scene.boxes.values() if b.lines}
    assert boxes["w_g"] == "gate * c + (1 - gate) * w"
    assert boxes["sharp"] == "w_s^(1 + softplus(gamma)[0])"
    assert boxes["r"] == "sum(read.next * M.next, over=slot)"


def test_boxes_have_symbols_if_the_source_file_is_missing():
    space = {"torch": torch, "gn": gn}
    text = "g = gn.Graph('bare')\nx = g.input('x', (3,))\ng.output('y', torch.tanh(x * 2) + x)"
    exec(compile(text, "<nowhere>", "exec"), space)
    assert "× tanh +" in titles(space["g"].draw().scene)


def test_unrolled_copies_have_one_module_and_pass_the_state_on():
    scene = draw(Elman(), unroll=3).scene
    assert sorted(t for t in titles(scene) if t.startswith("z(")) == ["z(0) = 0", "z(1)", "z(2)"]
    assert not any(e.mark for e in scene.edges), "delays are plain edges now"
    passed = [(e.source[1], e.target[1]) for e in scene.edges if e.state == "z"]
    assert passed == [(0, 1), (1, 2)]
    assert [b.shares for b in scene.boxes.values() if b.title == "rec"] == ["rec"] * 3
    net = scene.network()
    assert nx.is_directed_acyclic_graph(net)
    assert list(scene.headings.values()) == ["time 1", "time 2", "time 3"]


def test_unrolled_states_start_from_their_initial_values():
    scene = draw(Both(), unroll=3).scene
    assert {"far(−1)", "far(0) = 0.5", "far(1)", "ahead(4) = 0"} <= set(titles(scene))
    starts = [scene.boxes[e.target].title for e in scene.edges if e.start]
    assert starts == ["far(−1)"]
    last = [e for e in scene.edges if scene.boxes[e.target].title.startswith(("last", "first"))]
    assert sorted(e.source[1] for e in last) == [0, 2]


def test_any_axis_can_be_unrolled():
    scene = draw(Translate(), unroll={"target": 2}).scene
    assert list(scene.headings.values()) == ["target 1", "target 2"]
    assert sum(b.title == "dec" for b in scene.boxes.values()) == 2
    assert sum(b.title == "U" for b in scene.boxes.values()) == 1, "the source is read once"


class Score(nn.Module):
    """Attention whose plan adds the bias of the query to the keys before the loop."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)
        self.cell = nn.GRUCell(8, 8)

    def graph(self, g):
        h = g.input("h", (8,), over="source")
        x = g.input("x", (8,), over="target")
        s = g.state("s", (8,), over="target")
        w = gn.softmax(torch.tanh(self.query(s) + self.key(h)).sum(), over="source")
        s.next = self.cell(x + gn.sum(w * h, over="source"), s)
        g.output("s", s.next)


def test_a_fused_matmul_has_the_names_of_all_its_parts():
    scene = gn.compile(gn.nn.NTM(9, 10), backend="torch").draw(plan=True).scene
    (box,) = [b for b in scene.boxes.values() if "readers" in b.title]
    assert box.title == "readers.0.map + writers.0.map"
    assert box.lines == ("one matmul", "92 over time")
    network = gn.nn.Seq2Seq(30, 40, 8, 8, cell="gru", bidirectional=True)
    found = edges(gn.compile(network, backend="torch").draw(plan=True).scene)
    assert ("source_words", "encoder.l0 + l0_reverse") in found
    between_directions = {pair for pair in found if {*pair} <= {"encoder.l0", "encoder.l0_reverse"}}
    assert not between_directions, "two directions do not feed each other"


def test_a_moved_bias_has_its_own_box():
    found = edges(gn.compile(Score(), backend="torch").draw(plan=True).scene)
    assert {("key", "bias of query"), ("s(t−1)", "query")} <= found
    assert ("key", "query") not in found


def test_several_axes_are_unrolled_side_by_side():
    net = gn.nn.Seq2Seq(9, 8, 3, 4, attention="additive")
    scene = draw(net, unroll={"source": 3, "target": 2}).scene
    heads = ["source 1", "source 2", "source 3", "target 1", "target 2"]
    assert [scene.headings[n] for n in sorted(scene.headings)] == heads
    column = {title: n for n, title in scene.headings.items()}
    titled = {b.title: b for b in scene.boxes.values()}
    for title, head in (
        ("source(1)", "source 1"),
        ("encoder.h(2)", "source 3"),
        ("target(2)", "target 2"),
        ("attention.h(1)", "target 2"),
        ("logits(1)", "target 1"),
    ):
        assert titled[title].column == column[head]
    # the attention over the source is drawn once per target step, with edges from all positions
    attentions = [b.key for b in scene.boxes.values() if b.title == "attention.attention"]
    assert [scene.boxes[k].column for k in attentions] == [column["target 1"], column["target 2"]]
    keys = [k for k, b in scene.boxes.items() if b.title == "attention.attention.key"]
    sums = [k for k, b in scene.boxes.items() if b.title == "+ tanh"]
    pairs = {(e.source, e.target) for e in scene.edges}
    assert len(keys) == 3 and {(a, b) for a in keys for b in sums} <= pairs
    between = [b.column for b in scene.boxes.values() if b.title == "last over source"]
    assert set(between) == {column["source 3"] + 1} and nx.is_directed_acyclic_graph(
        scene.network()
    )


def test_a_plan_has_bands():
    scene = gn.compile(Elman(), backend="torch").draw(plan=True).scene
    assert [b.title for b in scene.bands] == [
        "before the loop",
        "loop z over time",
        "after the loop",
    ]
    titles_of = {n: {b.title for b in scene.boxes.values() if b.band == n} for n in range(3)}
    assert titles_of[0] == {"x", "enc", "rec"}
    assert titles_of[1] == {"z(t−1)", "rec", "z"}
    assert titles_of[2] >= {"dec", "y"}
    assert "one torch call per operation and step" in scene.bands[1].detail


def test_a_plan_shows_its_kernels():
    elman = gn.compile(Elman(), backend="interpret").draw(plan=True).scene
    assert "one kernel runs all of this band" in elman.bands[1].detail
    cooperative = gn.compile(Elman(), backend="interpret", skip=("resident", "fit"))
    detail = cooperative.draw(plan=True).scene.bands[1].detail
    assert detail.startswith("cooperative: one kernel, sharded over many thread blocks")
    persistent = gn.compile(TuringMachine(), backend="interpret").draw(plan=True).scene
    (loop,) = [b for b in persistent.bands if b.kind == "loop"]
    assert loop.detail == "persistent: one kernel runs all of this band"
    model = gn.compile(TuringMachine(), backend="interpret", skip=("resident",))
    machine = model.draw(plan=True).scene
    (loop,) = [b for b in machine.bands if b.kind == "loop"]
    kernels = {x for b in machine.boxes.values() for x in b.lines if x.startswith("kernel ")}
    assert loop.detail.startswith(f"stepwise: {len(kernels)} kernels per step")
    emitted = set(re.findall(r"def (\w+)_saving_(phase_\d+)\(", model.source()))
    assert {f"kernel {phase}" for _, phase in emitted} == kernels, "each by its name"


def test_a_loop_that_torch_provides_is_one_box():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = gn.nn.LSTM(5, 6)

        def graph(self, g):
            g.output("h", self.lstm(g.input("x", (5,), over="time")))

    scene = gn.compile(Net(), backend="torch").draw(plan=True).scene
    (loop,) = [b for b in scene.boxes.values() if b.title == "loop lstm.h, c"]
    assert loop.lines[0] == "torch's LSTM"


def test_an_unrolled_graph_has_separate_copies():
    scene = gn.unroll(Elman(), time=3).draw().scene
    assert [b.title for b in scene.boxes.values() if b.kind == "module"].count("rec") == 3
    assert not any(e.back for e in scene.edges)
    assert ("dec", "dec") not in edges(scene)
