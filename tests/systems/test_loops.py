"""Loops of the literature: backend "torch" compared with the reference, in float64.

Outputs, final states, and the gradients of inputs and parameters are compared, to 1e-12 relative.
"""

import pytest
import torch
from torch import nn

import graphnn as gn
from tests.networks.equality import compare


def randoms(**shapes):
    """Inputs that need gradients."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def same(net, lengths=None, **shapes):
    """Both backends give the same results for random inputs of these shapes."""
    torch.manual_seed(3)
    lengths = {axis: torch.tensor(n) for axis, n in (lengths or {}).items()}
    compare(net().double(), randoms(**shapes), lengths)


class Ponder(nn.Module):
    """Adaptive computation time (Graves 2016): each time step is a loop that stops by itself."""

    def __init__(self):
        super().__init__()
        self.f, self.halt = nn.Linear(3 + 4, 4), nn.Linear(4, 1)

    def graph(self, g):
        x = g.input("x", (3,), over="time")
        g.axis("ponder", 6)
        z = g.state("z", (4,), over="time")
        h = g.state("h", (4,), over="ponder", along="time", init=z)
        total = g.state("total", (), over="ponder", along="time")
        h.next = torch.tanh(self.f(torch.cat([x, h])))
        p = torch.sigmoid(self.halt(h.next))[0]
        total.next = total + p
        gn.until(total.next > 0.99, over="ponder")
        at_last = gn.index("ponder") == gn.length("ponder") - 1
        weight = torch.where(at_last, 1 - total, p)
        z.next = gn.sum(weight * h.next, over="ponder")
        g.output("z", z.next)
        g.output("weights", gn.sum(weight, over="ponder"))
        g.output("steps", gn.length("ponder"))


def test_adaptive_computation_time():
    same(Ponder, x=(3, 5, 3))


def test_adaptive_computation_time_over_ragged_sequences():
    same(Ponder, {"time": [5, 1, 3]}, x=(3, 5, 3))


def test_each_example_ponders_as_long_as_it_needs():
    torch.manual_seed(3)
    out = gn.compile(Ponder().double())(x=randoms(x=(3, 20, 3))["x"] * 3)
    assert len(out["steps"].unique()) > 1
    torch.testing.assert_close(out["weights"], torch.ones(3, 20, dtype=torch.float64))


class TwoDelays(nn.Module):
    """A cell that reads its values one and three steps before; each slot has an initial value."""

    def __init__(self):
        super().__init__()
        self.near, self.far = nn.Linear(3 + 4, 4), nn.Linear(4, 4, bias=False)
        self.start = nn.Parameter(torch.randn(4))

    def graph(self, g):
        x = g.input("x", (3,), over="time")
        near = g.state("near", (4,), init=self.start)
        far = g.state("far", (4,), delay=3, init=[0, self.start, 0.5])
        near.next = torch.tanh(self.near(torch.cat([x, near])) + self.far(far))
        far.next = near.next * 0.9
        g.output("y", near.next)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_two_delays(steps):
    same(TwoDelays, x=(2, steps, 3))


class Grid(nn.Module):
    """A recurrence over two axes of an input: each cell reads those above and to the left."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(3 + 4 + 4, 4)

    def graph(self, g):
        x = g.input("x", (3,), over=("row", "col"))
        above = g.state("above", (4,), over="row", along="col")
        left = g.state("left", (4,), over="col", along="row")
        h = torch.tanh(self.f(torch.cat([x, above, left])))
        above.next = left.next = h
        g.output("h", h)


@pytest.mark.parametrize("rows, cols", [(3, 4), (1, 4), (3, 1), (1, 1)])
def test_a_recurrence_in_two_dimensions(rows, cols):
    same(Grid, x=(2, rows, cols, 3))


def test_a_ragged_recurrence_in_two_dimensions():
    same(Grid, {"row": [3, 1], "col": [2, 4]}, x=(2, 3, 4, 3))


def test_a_recurrence_in_two_dimensions_is_the_double_loop():
    torch.manual_seed(3)
    net, x = Grid().double(), randoms(x=(2, 3, 4, 3))["x"]
    h = {}
    for r in range(3):
        for c in range(4):
            none = torch.zeros(2, 4, dtype=torch.float64)
            seen = [x[:, r, c], h.get((r - 1, c), none), h.get((r, c - 1), none)]
            h[r, c] = torch.tanh(net.f(torch.cat(seen, 1)))
    wanted = torch.stack([torch.stack([h[r, c] for c in range(4)], 1) for r in range(3)], 1)
    torch.testing.assert_close(gn.compile(net)(x=x), wanted, rtol=1e-12, atol=1e-12)


class TuringMachine(nn.Module):
    """A Neural Turing Machine (Graves et al. 2014) with one head for reads and writes."""

    width, slots = 3, 5

    def __init__(self):
        super().__init__()
        d = self.width
        self.controller = nn.Linear(3 + d, 6)
        self.head = nn.Linear(6, 3 * d + 3 + 3)
        self.memory = nn.Parameter(torch.randn(self.slots, d) * 0.3)

    def graph(self, g):
        d = self.width
        x = g.input("x", (3,), over="time")
        g.axis("slot", self.slots)
        M = g.state("M", (d,), along="slot", init=gn.along(self.memory, "slot"))
        w = g.state("w", along="slot", init=1 / self.slots)
        read = g.state("read", (d,))
        h = torch.tanh(self.controller(torch.cat([x, read])))
        k, erase, add, shift, knobs = torch.split(self.head(h), [d, d, d, 3, 3])
        beta, gate = torch.nn.functional.softplus(knobs[0]), torch.sigmoid(knobs[1])
        gamma = 1 + torch.nn.functional.softplus(knobs[2])
        c = gn.softmax(beta * gn.cosine(M, k), over="slot")
        w_g = gate * c + (1 - gate) * w
        turn = torch.softmax(shift, -1)
        w_s = sum(turn[i] * gn.roll(w_g, i - 1, over="slot") for i in range(3))
        sharp = w_s**gamma
        w.next = sharp / gn.sum(sharp, over="slot")
        read.next = gn.sum(w.next * M, over="slot")
        M.next = M * (1 - w.next * torch.sigmoid(erase)) + w.next * torch.tanh(add)
        g.output("read", read.next)
        g.output("w", w.next)


def test_a_neural_turing_machine():
    same(TuringMachine, x=(2, 6, 3))


def test_a_ragged_neural_turing_machine():
    same(TuringMachine, {"time": [6, 0, 2]}, x=(3, 6, 3))


class Translate(nn.Module):
    """A bidirectional encoder and a decoder with additive attention (Bahdanau et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.there, self.back = nn.GRUCell(3, 4), nn.GRUCell(3, 4)
        self.W, self.U, self.v = nn.Linear(4, 5), nn.Linear(8, 5), nn.Linear(5, 1)
        self.bridge, self.decode = nn.Linear(4, 4), nn.GRUCell(2 + 8, 4)

    def graph(self, g):
        x, y = g.input("x", (3,), over="source"), g.input("y", (2,), over="target")
        f = g.state("f", (4,), over="source")
        b = g.state("b", (4,), over="source", delay=-1)
        f.next, b.next = self.there(x, f), self.back(x, b)
        h = torch.cat([f.next, b.next])
        start = torch.tanh(self.bridge(gn.first(b.next, over="source")))
        s = g.state("s", (4,), over="target", init=start)
        score = self.v(torch.tanh(self.W(s) + self.U(h)))
        weights = gn.softmax(score, over="source")
        context = gn.sum(weights * h, over="source")
        s.next = self.decode(torch.cat([y, context]), s)
        g.output("s", s.next)
        g.output("weights", weights)


def test_sequence_to_sequence_with_additive_attention():
    same(Translate, x=(2, 5, 3), y=(2, 4, 2))


def test_sequence_to_sequence_with_ragged_source_and_target():
    lengths = {"source": [5, 2, 1], "target": [1, 4, 3]}
    same(Translate, lengths, x=(3, 5, 3), y=(3, 4, 2))


def test_padding_of_source_and_target_changes_nothing():
    torch.manual_seed(3)
    model, given = gn.compile(Translate().double()), randoms(x=(1, 5, 3), y=(1, 4, 2))
    lengths = {"source": torch.tensor([3]), "target": torch.tensor([2])}
    padded = model(**given, lengths=lengths)
    cut = model(x=given["x"][:, :3], y=given["y"][:, :2])
    torch.testing.assert_close(padded["s"][:, :2], cut["s"], rtol=1e-12, atol=1e-12)
    assert not padded["s"][:, 2:].any()


class Both(nn.Module):
    """Both directions, the second by a negative delay, and a second layer over both."""

    def __init__(self):
        super().__init__()
        self.f, self.b, self.up = nn.Linear(3 + 4, 4), nn.Linear(3 + 4, 4), nn.Linear(8 + 2, 2)

    def graph(self, g):
        x = g.input("x", (3,), over="time")
        f, b, up = g.state("f", (4,)), g.state("b", (4,), delay=-1), g.state("up", (2,), delay=-2)
        f.next = torch.tanh(self.f(torch.cat([x, f])))
        b.next = torch.tanh(self.b(torch.cat([x, b])))
        up.next = torch.tanh(self.up(torch.cat([f.next, b.next, up])))
        g.output("y", up.next)
        g.output("ends", torch.cat([gn.last(f.next, over="time"), gn.first(b.next, over="time")]))


@pytest.mark.parametrize("lengths", [None, {"time": [6, 1, 4]}, {"time": [2, 0, 6]}])
def test_both_directions_by_a_negative_delay(lengths):
    same(Both, lengths, x=(3, 6, 3))


class Sums(nn.Module):
    """A torch function without a row in the table, inside the loop."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(3 + 4, 4)

    def graph(self, g):
        x, z = g.input("x", (3,), over="time"), g.state("z", (4,))
        z.next = torch.cumsum(torch.tanh(self.f(torch.cat([x, z]))), 0) * 0.3
        g.output("y", z.next)


def test_a_function_without_a_row():
    same(Sums, x=(2, 5, 3))
    same(Sums, {"time": [5, 2]}, x=(2, 5, 3))
    text = gn.compile(Sums()).explain()
    assert "cumsum" in text and "test_loops.py:" in text


class Nested(nn.Module):
    """Words of characters in sentences: a loop over chars, in one over words, in one over hops."""

    def __init__(self):
        super().__init__()
        self.char, self.word = nn.Linear(3 + 4, 4), nn.Linear(4 + 5, 5)
        self.feed, self.hop = nn.Linear(5, 4), nn.Linear(5 + 4, 4)

    def graph(self, g):
        x = g.input("x", (3,), over=("word", "char"))
        g.axis("hop", 2)
        top = g.state("top", (4,), over="hop")
        w = g.state("w", (5,), over="word", along="hop")
        start = torch.tanh(self.feed(w) + top)
        c = g.state("c", (4,), over="char", along=("hop", "word"), init=start)
        c.next = torch.tanh(self.char(torch.cat([x, c])))
        w.next = torch.tanh(self.word(torch.cat([gn.last(c.next, over="char"), w])))
        top.next = torch.tanh(self.hop(torch.cat([gn.last(w.next, over="word"), top])))
        g.output("top", gn.last(top.next, over="hop"))
        g.output("w", w.next)


def test_loops_inside_loops():
    same(Nested, x=(2, 3, 4, 3))
    same(Nested, {"char": [4, 2]}, x=(2, 3, 4, 3))
    same(Nested, {"word": [1, 3]}, x=(2, 3, 4, 3))


OVER_TIME = [Ponder, TwoDelays, TuringMachine, Both, Sums]


@pytest.mark.parametrize("net", OVER_TIME)
@pytest.mark.parametrize("batch, steps", [(1, 1), (1, 5), (3, 1), (0, 4)])
def test_one_step_one_example_and_none(net, batch, steps):
    same(net, x=(batch, steps, 3))


@pytest.mark.parametrize("batch", [0, 1])
def test_one_example_and_none_of_several_axes(batch):
    same(Grid, x=(batch, 2, 3, 3))
    same(Nested, x=(batch, 2, 3, 3))
    same(Translate, x=(batch, 3, 3), y=(batch, 2, 2))


class Tiny(nn.Module):
    """A gated cell of two units."""

    def __init__(self):
        super().__init__()
        self.f = nn.Linear(1 + 2, 4)

    def graph(self, g):
        x, z = g.input("x", (1,), over="time"), g.state("z", (2,))
        gate, new = self.f(torch.cat([x, z])).chunk(2)
        z.next = torch.sigmoid(gate) * z + torch.tanh(new)
        g.output("y", z.next)


def test_second_derivatives_on_reference():
    torch.manual_seed(3)
    model = gn.compile(Tiny().double(), backend="reference")
    names, weights = zip(*model.named_parameters())

    def run(x, *weights):
        return torch.func.functional_call(model, dict(zip(names, weights)), (), {"x": x})

    x = randoms(x=(2, 3, 1))["x"]
    assert torch.autograd.gradgradcheck(run, (x, *weights))
