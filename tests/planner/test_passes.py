"""The effects of passes on plans and generated code."""

import networkx as nx
import pytest
import torch
from torch import nn

import graphnn as gn
from bench.networks import GRU, LSTM, RNN, Deep, TwoSpeeds
from graphnn.planner.core.regions import Loop, Whole


class SeparateGates(nn.Module):
    """An LSTM of eight linear maps, with reordered gates and reversed sums."""

    def __init__(self, inputs: int, size: int):
        super().__init__()
        self.x = nn.ModuleList(nn.Linear(inputs, size) for _ in range(4))
        self.h = nn.ModuleList(nn.Linear(size, size, bias=False) for _ in range(4))
        self.inputs, self.size = inputs, size

    def graph(self, g):
        x = g.input("x", (self.inputs,), over="time")
        h, c = g.state("h", (self.size,)), g.state("c", (self.size,))
        o, u, f, i = (w(h) + v(x) for v, w in zip(self.x, self.h, strict=True))
        c.next = torch.tanh(u) * i.sigmoid() + c * f.sigmoid()
        h.next = torch.tanh(c.next) * o.sigmoid()
        g.output("y", h.next)


def strategies(model):
    return [d.strategy for d in model.plan.decisions]


def loop_operations(model):
    """Returns the names of the operations in the only loop."""
    ir = model.plan.ir
    (loop,) = [r for r in model.plan.regions if isinstance(r, Loop)]
    return [ir[i].op for i in loop.nodes]


def test_the_gates_share_one_matmul_and_their_input_part_leaves_the_loop():
    operations = loop_operations(gn.compile(SeparateGates(3, 4), skip=("match",)))
    assert operations.count("einsum") == 1
    assert operations.count("sigmoid") == 1, "three gates share one call"
    assert "cat" not in operations


def test_without_horizontal_fusion_there_are_four_matmuls():
    model = gn.compile(SeparateGates(3, 4), skip=("match", "merge"))
    assert loop_operations(model).count("einsum") == 4


def test_without_split_the_concatenation_stays_in_the_loop():
    assert "cat" in loop_operations(gn.compile(TwoSpeeds(4), skip=("split",)))
    assert "cat" not in loop_operations(gn.compile(TwoSpeeds(4)))


def test_bias_and_input_are_added_outside_the_loop():
    model = gn.compile(RNN(4))
    assert loop_operations(model).count("add") == 1
    assert loop_operations(gn.compile(RNN(4), skip=("hoist",))).count("add") >= 2


@pytest.mark.parametrize("kind", [LSTM, GRU, RNN])
def test_weight_and_input_gradients_leave_the_backward_loop(kind):
    model = gn.compile(kind(5), skip=("match",))
    (program,) = model.program().loops
    ir = program.derived.ir
    from graphnn.planner.core.regions import partition

    regions = partition(ir)
    loops = [r for r in regions if isinstance(r, Loop)]
    assert [loop.reverse for loop in loops] == [True]
    inside = [ir[i] for i in loops[0].nodes if ir[i].op == "einsum"]
    outside = [ir[i] for r in regions if isinstance(r, Whole) for i in r.nodes]
    summed = [n for n in outside if n.op == "einsum" and n.attrs["contract"]]
    assert len(inside) == 1, "the gradient to the state"
    assert len(summed) == 1, "the gradient to the recurrent weights, one product"
    assert summed[0].attrs["contract"] == {"time", "batch"}


def test_torch_layers_are_recognised_in_different_spellings():
    assert strategies(gn.compile(LSTM(5))) == ["aten"]
    assert strategies(gn.compile(SeparateGates(3, 4))) == ["aten"]
    assert strategies(gn.compile(LSTM(5), skip=("match",))) == ["stepwise"]
    assert "torch.nn.GRU is equivalent" in gn.compile(GRU(5)).explain()
    assert "torch.nn.RNN(tanh) is equivalent" in gn.compile(RNN(5)).explain()


def test_variants_of_an_lstm_are_not_replaced_by_torch_lstm():
    class ReadsCell(SeparateGates):
        def graph(self, g):
            super().graph(g)
            g.output("c", gn.Value(g, g.ir.closings[_delay(g, "c")]))

    assert strategies(gn.compile(ReadsCell(3, 4))) == ["stepwise"], "torch does not return c(t)"

    class Peephole(SeparateGates):
        def graph(self, g):
            x = g.input("x", (self.inputs,), over="time")
            h, c = g.state("h", (self.size,)), g.state("c", (self.size,))
            o, u, f, i = (w(h) + v(x) for v, w in zip(self.x, self.h, strict=True))
            c.next = torch.tanh(u) * (i + c).sigmoid() + c * f.sigmoid()
            h.next = torch.tanh(c.next) * o.sigmoid()
            g.output("y", h.next)

    assert strategies(gn.compile(Peephole(3, 4))) == ["stepwise"]


def _delay(g, name):
    return next(n.id for n in g.ir if n.op == "delay" and n.name == name)


def test_a_linear_recurrence_is_scanned():
    g = gn.Graph("leaky")
    x, z = g.input("x", (3,), over="time"), g.state("z", (3,))
    gate = torch.sigmoid(x)
    z.next = z + gate * (x - z)
    g.output("y", z.next)
    assert strategies(gn.compile(g)) == ["scan"]
    assert strategies(gn.compile(g, skip=("scan",))) == ["stepwise"]


def test_the_plan_converts_to_a_networkx_graph():
    net = gn.compile(TwoSpeeds(4)).plan.ir.network()
    assert isinstance(net, nx.MultiDiGraph)
    closings = [d for _, _, d in net.edges(data="delay") if d]
    assert closings == [1, 1]
    without = nx.DiGraph((a, b) for a, b, d in net.edges(data="delay") if not d)
    assert nx.is_directed_acyclic_graph(without)


def test_generated_code_uses_the_users_names_and_cites_their_lines():
    source = gn.compile(TwoSpeeds(4)).source()
    assert "networks.py:" in source
    assert "def fast_slow_saving(" in source and "def fast_slow_backward(" in source


def test_explain_describes_each_part_and_the_reasons():
    text = gn.compile(TwoSpeeds(4)).explain()
    for part in ("before loop", "each step:", "saved for backward:", "why:", "nothing falls back"):
        assert part in text


def test_explain_names_an_unsupported_function_and_its_line():
    g = gn.Graph("odd")
    x, z = g.input("x", (3,), over="time"), g.state("z", (3,))
    z.next = torch.cumsum(torch.tanh(x + z), 0)
    g.output("y", z.next)
    text = gn.compile(g).explain()
    assert "'cumsum' at test_passes.py:" in text and "one step at a time" in text


def test_recompute_saves_fewer_elements():
    saved = [
        gn.compile(TwoSpeeds(4), recompute=flag).explain().split("saved for backward: ")[1]
        for flag in (False, True)
    ]
    widths = [int(text.split(" elements")[0].rsplit(" ", 1)[1]) for text in saved]
    assert widths[1] < widths[0]


def test_equal_loops_share_their_code():
    """Six loops (three layers, two directions) need one forward and one backward per direction."""
    source = gn.compile(Deep(3)).source()
    assert source.count("def ") == 1 + 2 * 2


def test_a_constant_summand_leaves_the_loop():
    source = gn.compile(TwoSpeeds(3)).source()
    assert "bias + -1" in source and ", 1, out=" not in source
