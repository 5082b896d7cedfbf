"""Hops over one memory: one kernel forward and one backward, equal to the reference."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.torch.operators.hops import HopsOperator
from graphnn.backends.triton.attention import hops
from graphnn.backends.triton.attention.hops import HopKernels
from graphnn.kernels import simulate
from graphnn.kernels.attention.tile_size import attention_case, choose_tile
from graphnn.kernels.feasibility.aot import TARGETS
from graphnn.kernels.ir.program import Unsupported
from tests.networks.equality import assert_same, results

WIDTH = 6


class Story(nn.Module):
    """Hops by a module over a question and a memory per example."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.width = width

    def graph(self, g: gn.Graph) -> None:
        u = g.input("u", (self.width,))
        m, c = (g.input(name, (self.width,), over="slot") for name in "mc")
        g.output("y", self.hops(u, m, c))


class Rectified(Story):
    """A perceptron between hops, a scale, and empty slots."""

    def __init__(self, width: int = WIDTH, hops: int = 3):
        super().__init__(width)
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(hops))

    def hops(self, u: gn.Value, m: gn.Value, c: gn.Value) -> gn.Value:
        held = gn.dot(m, m) > 3
        for map in self.maps:
            read = gn.lookup(u, m, c, over="slot", sharpness=0.7, mask=held)
            u = torch.relu(map(u)) + read * torch.sigmoid(u)
        return u


class KeyValue(Story):
    def __init__(self) -> None:
        super().__init__()
        self.memory = gn.nn.KeyValueMemory(WIDTH, hops=2)

    def hops(self, u: gn.Value, m: gn.Value, c: gn.Value) -> gn.Value:
        return self.memory(u, m, c)


class Distance(Story):
    """Scores by distance, and two sums of the first hop, the second read by both."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def hops(self, u: gn.Value, m: gn.Value, c: gn.Value) -> gn.Value:
        weights = gn.softmax(-((u - m) ** 2).sum(-1), over="slot")
        first, far = gn.sum(weights * c, over="slot"), gn.sum(weights * m.sum(-1), over="slot")
        weights = gn.softmax(torch.tanh(gn.dot(first, m)) * far, over="slot")
        return gn.sum(weights * c, over="slot") * self.scale + far


class Questions(nn.Module):
    """MemN2N over stories (Sukhbaatar et al. 2015)."""

    def __init__(self, **options):
        super().__init__()
        self.net = gn.nn.MemoryNetwork(11, WIDTH, 3, capacity=7, **options)

    def graph(self, g: gn.Graph) -> None:
        story = g.input("story", over=("slot", "word"), dtype=torch.int64)
        question = g.input("question", over="asked", dtype=torch.int64)
        g.output("y", self.net(story, question, over="slot"))


NETS = {
    "rectified": Rectified,
    "rectified, wide": lambda: Rectified(70, 2),
    "key-value": KeyValue,
    "distance": Distance,
    "adjacent": Questions,
    "layer-wise": lambda: Questions(tying="layer"),
    "no spare slots": lambda: Questions(spare=False),
}


def some(*quick: str) -> list:
    """All networks, those that are not `quick` among the slow tests."""
    marks = {False: [pytest.mark.slow], True: []}
    return [pytest.param(name, marks=marks[name in quick]) for name in NETS]


def given(net: nn.Module, batch: int = 3, slots: int = 5, dtype=torch.float64):
    """Inputs, and lengths with all slots, none and some."""
    made = torch.Generator().manual_seed(0)
    lengths = {"slot": torch.tensor([slots, 0, 2])}
    if isinstance(net, Questions):
        shapes = {"story": (batch, slots, 4), "question": (batch, 3)}
        return {k: torch.randint(0, 11, s, generator=made) for k, s in shapes.items()}, lengths
    shapes = {"u": (batch, net.width)} | dict.fromkeys("mc", (batch, slots, net.width))
    found = {k: torch.randn(s, generator=made, dtype=dtype) for k, s in shapes.items()}
    return {k: v.requires_grad_() for k, v in found.items()}, lengths


def engines(model: gn.Compiled) -> list[HopKernels]:
    """The engines of a model's hops, which must be kernels."""
    if not model.programs:
        model.source()
    found = [a for p in model.programs for a in p.attends]
    assert found and all(isinstance(a, HopsOperator) for a in found)
    assert all(isinstance(a.engine, HopKernels) for a in found), [a.report() for a in found]
    return [a.engine for a in found]


@pytest.mark.parametrize("name", some("rectified", "distance", "adjacent"))
def test_equals_the_reference(name):
    torch.manual_seed(0)
    net = NETS[name]().double()
    x, lengths = given(net)
    model = gn.compile(net, backend="interpret")
    exact = gn.compile(net, backend="reference")
    for short in ({}, lengths):
        assert_same(results(exact, x, short)[0], results(model, x, short)[0], 1e-12)
    assert len(engines(model)) == 2
    assert "all hops in one kernel forward and one backward" in model.explain()


@pytest.mark.parametrize(("batch", "slots"), [(0, 5), (1, 1), (2, 37)])
def test_empty_single_and_many(batch, slots):
    """The loop covers more slots than a tile has columns."""
    net = Rectified(5, 2).double()
    x, _ = given(net, batch, slots)
    models = [gn.compile(net, backend=b) for b in ("reference", "interpret")]
    assert_same(*(results(m, x, {})[0] for m in models), 1e-12)


@pytest.mark.parametrize("name", ["rectified", "distance"])
def test_one_launch_per_direction_without_a_fault(name):
    """Addresses are within tensors, results are written once, and nothing is read before."""
    torch.manual_seed(0)
    net = NETS[name]().double()
    model = gn.compile(net, backend="interpret")
    x, lengths = given(net, slots=17)
    wanted = results(model, x, lengths)[0]
    stores = {}
    for source in (s for engine in engines(model) for s in engine.kernels()):
        names = [f"{t.name}_ptr" for t in source.program.outputs]
        stores[source.name] = names
    with simulate.checking(stores) as reports:
        got = results(model, x, lengths)[0]
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)
    assert [r.kernel for r in reports] == list(stores)


def test_a_long_memory_of_few_examples_takes_one_launch_per_hop(monkeypatch):
    """Its loops are then split into parts, which is not possible in one launch for all hops."""
    net = Rectified(3, 2).double()
    model = gn.compile(net, backend="interpret")
    x, _ = given(net, 1, 40)
    (engine,) = engines(model)
    assert engine.split({"batch": 1, "slot": 2048}) and not engine.split({"batch": 1, "slot": 2047})
    assert not engine.split({"batch": 200, "slot": 10**5})
    monkeypatch.setattr(hops, "MIN_PART", 16)
    with simulate.checking(threads=False) as reports:
        got = results(model, x, {})[0]
    kernels = {r.kernel for r in reports}
    assert len(kernels) == 4 and not kernels & {s.name for s in engine.kernels()}
    assert_same(results(gn.compile(net, backend="reference"), x, {})[0], got, 1e-12)


def test_without_a_kernel_each_hop_is_a_separate_attention(monkeypatch):
    def refuse(*args):
        raise Unsupported("no such kernel")

    monkeypatch.setattr(hops, "emit", refuse)
    net = Rectified().double()
    x, lengths = given(net)
    model = gn.compile(net, backend="interpret")
    exact = gn.compile(net, backend="reference")
    assert_same(results(exact, x, lengths)[0], results(model, x, lengths)[0], 1e-12)
    assert "falls back: no such kernel: one contraction after another" in model.explain()


def test_some_gradients_alone():
    """Gradients of the keys alone, from the first of two results."""

    class Both(Rectified):
        def graph(self, g: gn.Graph) -> None:
            u = g.input("u", (self.width,))
            m, c = (g.input(name, (self.width,), over="slot") for name in "mc")
            first = u + gn.lookup(u, m, c, over="slot")
            g.output("first", first)
            g.output("second", gn.lookup(first, m, c, over="slot"))

    net = Both().double()
    x, _ = given(net)
    x = {k: v.detach().requires_grad_(k == "m") for k, v in x.items()}
    models = [gn.compile(net, backend=b) for b in ("reference", "interpret")]
    engines(models[1])
    for key in ("first", "second"):
        a, b = (torch.autograd.grad(m(**x)[key].square().sum(), x["m"])[0] for m in models)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_same_bits_second_derivatives_and_torch_compile():
    net = Rectified(WIDTH, 2).double()
    x, _ = given(net)
    model = gn.compile(net, backend="interpret")
    engines(model)

    def once(m):
        y = m(**x)
        return [y, *torch.autograd.grad(y.square().sum(), [*x.values(), *net.parameters()])]

    def twice(m):
        (d,) = torch.autograd.grad(m(**x).square().sum(), x["u"], create_graph=True)
        return torch.autograd.grad(d.square().sum(), [*x.values()])

    for a, b in zip(twice(gn.compile(net, backend="reference")), twice(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    first = once(model)
    for other in (once(model), once(fast)):
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_as_precise_as_torch(dtype):
    torch.manual_seed(0)
    net = Rectified(16, 2)
    exact = gn.compile(copy.deepcopy(net).to(dtype).double())
    x, _ = given(net, 2, 20)
    x = {k: v.to(dtype).double().detach().requires_grad_() for k, v in x.items()}
    low = {k: v.to(dtype).detach().requires_grad_() for k, v in x.items()}

    def all_of(m, inputs):
        y = m(**inputs)
        found = torch.autograd.grad(y.square().sum(), [*inputs.values(), *m.parameters()])
        return [y, *found]

    wanted = all_of(exact, x)
    net = net.to(dtype)
    ours = all_of(gn.compile(net, backend="interpret"), low)
    eager = all_of(gn.compile(net, skip=("attend",)), low)
    for a, b, c in zip(wanted, ours, eager, strict=True):
        error, allowed = ((v.double() - a).detach().norm() for v in (b, c))
        assert error <= 2 * allowed + torch.finfo(dtype).eps * a.detach().norm()


class Drawn(Story):
    """Two to four hops with random scores, values, and steps between them."""

    def __init__(self, seed: int):
        super().__init__(4)
        self.draw = random.Random(seed)
        self.count = self.draw.randint(2, 4)
        self.maps = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

    def hops(self, u: gn.Value, m: gn.Value, c: gn.Value) -> gn.Value:
        draw = self.draw
        for map in self.maps[: self.count]:
            weights = gn.softmax(self.score(draw, u, m), over="slot")
            value = draw.choice([m, c, torch.tanh(m) * c, (u * c).sum(-1), c * u])
            u = self.step(draw, map, u, gn.sum(weights.reshape((1,) * value.ndim) * value, "slot"))
        return u

    def score(self, draw: random.Random, u: gn.Value, m: gn.Value) -> gn.Value:
        far = (gn.length("slot") - gn.index("slot")).to(u.dtype)
        match = draw.choice([gn.dot(u, m), gn.cosine(u, m) * 2, -((u - m) ** 2).sum(-1) / 2])
        return draw.choice(
            [
                match,
                match - 0.1 * far,
                torch.where(far > 1, match, float("-inf")),
                match * (u * u).sum(-1),
            ]
        )

    def step(self, draw: random.Random, map: nn.Module, u: gn.Value, read: gn.Value) -> gn.Value:
        return draw.choice(
            [
                lambda: torch.tanh(map(u)) + read,
                lambda: torch.relu(map(u + read)),
                lambda: u * torch.sigmoid(read) + map(read * u),
                lambda: (u + read) / (1 + ((u + read) ** 2).sum(-1, keepdim=True)),
            ]
        )()


@pytest.mark.parametrize(
    "seed", [pytest.param(k, marks=[pytest.mark.slow] * (k > 1)) for k in range(40)]
)
def test_random_hops(seed):
    torch.manual_seed(seed)
    net = Drawn(seed).double()
    x, lengths = given(net)
    net.draw.seed(seed)
    model = gn.compile(net, backend="interpret")
    net.draw.seed(seed)
    exact = gn.compile(net, backend="reference")
    for short in ({}, lengths):
        assert_same(results(exact, x, short)[0], results(model, x, short)[0], 1e-12)


class Shared(nn.Module):
    """Slots that all examples share."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = nn.Parameter(torch.randn(9, WIDTH))

    def graph(self, g: gn.Graph) -> None:
        u = g.input("u", (WIDTH,))
        g.axis("slot", 9)
        slots = gn.along(self.slots, "slot")
        for _ in range(2):
            u = u + gn.lookup(u, slots, slots)
        g.output("y", u)


class Watched(Story):
    """The weights of a hop are an output."""

    def graph(self, g: gn.Graph) -> None:
        u = g.input("u", (WIDTH,))
        m = g.input("m", (WIDTH,), over="slot")
        for k in range(2):
            read, weights = gn.lookup(u, m, m, over="slot", with_weights=True)
            u = u + read
            g.output(f"weights{k}", weights)
        g.output("y", u)


class Weighted(Story):
    """Scores with weights of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp = nn.Parameter(torch.ones(()))

    def hops(self, u: gn.Value, m: gn.Value, c: gn.Value) -> gn.Value:
        for _ in range(2):
            u = u + gn.lookup(u, m, c, over="slot", sharpness=self.sharp)
        return u


REFUSED = {
    Shared: "is shared by several queries",
    Watched: "are also read by output 'weights0'",
    Weighted: "has different weights at each position",
}


@pytest.mark.parametrize("make", REFUSED)
def test_hops_that_need_one_launch_each_have_a_reason(make):
    text = gn.compile(make(), backend="interpret").explain()
    assert "2 hops over slot at test_hops.py" in text and "one launch per hop: " in text
    assert REFUSED[make] in text and text.count(": in tiles\n") == 2


def test_on_a_cpu_torch_computes_each_hop():
    text = gn.compile(Rectified()).explain()
    assert "hops over" not in text and text.count(": in tiles\n") == 3


def fitting(net: nn.Module, target: str, dtype: str = "bf16") -> None:
    """All kernels of a network's hops fit a GPU without spills."""
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    for engine in engines(gn.compile(net.to(kind), backend="interpret")):
        for source in engine.kernels():
            shape = choose_tile(source, dtype, target, "ieee")
            row = attention_case(source, dtype, shape).judge(target)
            assert not [f for f in row.faults if not f.startswith("all ")], row


def test_fits_without_spills():
    fitting(Rectified(20, 2), "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NETS)
def test_compiles_for_every_target(name, target):
    fitting(NETS[name](), target)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETS)
def test_equals_the_reference_on_a_gpu(name):
    """In float32, compared with the reference in float64; the same bits twice."""
    torch.manual_seed(0)
    net = NETS[name]()
    x, lengths = given(net, slots=50)
    wanted = results(gn.compile(copy.deepcopy(net).double(), backend="reference"), x, lengths)[0]
    model = gn.compile(net.cuda(), backend="triton")
    there = {
        k: (v.detach().float().requires_grad_() if v.is_floating_point() else v).detach().cuda()
        for k, v in x.items()
    }
    there = {k: v.requires_grad_(v.is_floating_point()) for k, v in there.items()}
    lengths = {k: v.cuda() for k, v in lengths.items()}
    got, again = (results(model, there, lengths)[0] for _ in range(2))
    assert all(torch.equal(got[k], again[k]) for k in got)
    low = {k: v.float() if v.is_floating_point() else v for k, v in wanted.items()}
    assert_same(low, {k: v.cpu() for k, v in got.items()}, 1e-3)
