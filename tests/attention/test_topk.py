"""Look-ups of the k best slots: exact top-k in tiles, with gradients for these slots alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.torch.operators import attention_tiles
from graphnn.backends.torch.operators.topk import top_positions
from graphnn.backends.triton.attention.operators import AttentionKernels, KernelStage
from graphnn.backends.triton.attention.topk import TopKKernels
from graphnn.kernels import simulate
from graphnn.kernels.attention import topk as top
from graphnn.kernels.attention.launch import AttentionLauncher
from graphnn.kernels.attention.tile_size import attention_case, choose_tile
from graphnn.kernels.feasibility.aot import TARGETS
from tests.networks.equality import assert_same, results


class Slots(nn.Module):
    """Keys of small integers, so that many match equally well."""

    def __init__(self, slots: int, top: int):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(slots, 8).round())
        self.values = nn.Parameter(torch.randn(slots, 8))
        self.top = top

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (8,), over="time")
        g.axis("slot", len(self.keys))
        keys, values = gn.along(self.keys, "slot"), gn.along(self.values, "slot")
        g.output("y", gn.lookup(q, keys, values, topk=self.top, sharpness=0.3))


class Heard(nn.Module):
    """A memory per example, with a length per example."""

    def __init__(self, top: int):
        super().__init__()
        self.map, self.top = nn.Linear(8, 8), top

    def graph(self, g: gn.Graph) -> None:
        q, m = g.input("q", (8,), over="time"), g.input("m", (8,), over="source")
        g.output("y", gn.lookup(self.map(q), m, m, over="source", topk=self.top))


class Once(Heard):
    """One query per example, and empty slots: fewer than k slots remain, or none."""

    def graph(self, g: gn.Graph) -> None:
        q, m = g.input("q", (8,), over="time"), g.input("m", (8,), over="source")
        held = gn.dot(gn.last(q, over="time"), m) > 2.5
        query = self.map(gn.last(q, over="time"))
        g.output("y", gn.lookup(query, m, m, over="source", topk=self.top, mask=held))


class Perceptron(Heard):
    """A score of two layers, with a slope by position; two sums of one softmax."""

    def __init__(self, top: int):
        super().__init__(top)
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 1)

    def graph(self, g: gn.Graph) -> None:
        q, m = g.input("q", (8,), over="time"), g.input("m", (8,), over="source")
        place = gn.index("source").to(q.dtype)
        score = self.second(torch.tanh(self.first(self.map(q) + m))) - 0.1 * place
        score = torch.where(gn.top(score, self.top, "source"), score, float("-inf"))
        weights = gn.softmax(score, over="source")
        g.output("y", gn.sum(weights * m, over="source"))
        g.output("z", gn.sum(weights * (place / gn.length("source")), over="source"))


class Heads(Heard):
    """Two heads, each with its own top-k."""

    def graph(self, g: gn.Graph) -> None:
        q, m = g.input("q", (8,), over="time"), g.input("m", (8,), over="source")
        keys = self.map(m).reshape(2, 4)
        score = torch.einsum("hd,hd->h", q.reshape(2, 4), keys)
        score = torch.where(gn.top(score, self.top, "source"), score, float("-inf"))
        weights = gn.softmax(score, over="source")
        g.output("y", gn.sum(weights.unsqueeze(-1) * m.reshape(2, 4), over="source").reshape(-1))


NETS = {
    "5 of 40": lambda: Slots(40, 5),
    "5 of 3": lambda: Slots(3, 5),
    "1 of 9": lambda: Slots(9, 1),
    "16 of 17": lambda: Slots(17, 16),
    "heard": lambda: Heard(3),
    "once": lambda: Once(3),
    "perceptron": lambda: Perceptron(2),
    "heads": lambda: Heads(2),
}
# the other networks are slow here
QUICK = ("5 of 3", "once", "perceptron", "heads")
WAYS = [
    *(pytest.param(name, "torch", tile) for name in NETS for tile in (2**20, 16)),
    *(pytest.param(n, "interpret", 16, marks=[pytest.mark.slow] * (n not in QUICK)) for n in NETS),
]


def given(net: nn.Module, batch: int = 3, queries: int = 4, sources: int = 9, dtype=torch.float64):
    """Inputs that match many slots equally well, with gradients; and lengths."""
    made = torch.Generator().manual_seed(0)
    found = {"q": torch.randn(batch, queries, 8, generator=made, dtype=dtype).round()}
    lengths = {"time": torch.tensor([4, 0, 2])}
    if isinstance(net, Heard):
        found["m"] = torch.randn(batch, sources, 8, generator=made, dtype=dtype)
        lengths["source"] = torch.tensor([9, 2, 0])
    return {k: v.requires_grad_() for k, v in found.items()}, lengths


def engines(model: gn.Compiled) -> list[TopKKernels]:
    """The engines that compute a model's look-ups by kernels."""
    if not model.programs:
        model.source()
    found = [a.engine for p in model.programs for a in p.attends]
    assert all(isinstance(e, TopKKernels) for e in found)
    return found


def stages(engine: TopKKernels) -> list[AttentionLauncher]:
    """All kernels of a look-up except the one that merges parts."""
    inner: AttentionKernels | None = engine.inner
    more: list[KernelStage] = []
    if inner is not None:
        more = [inner.forward_stage, *inner.backward_of(*inner.full).stages]
    return [engine.finder.run, *(s.run for s in more)]


@pytest.mark.parametrize(("name", "backend", "tile"), WAYS)
def test_equals_the_reference(name, backend, tile, monkeypatch):
    monkeypatch.setattr(attention_tiles, "TILE", tile)
    torch.manual_seed(0)
    net = NETS[name]().double()
    x, lengths = given(net)
    for short in ({}, lengths):
        models = [gn.compile(net, backend=b) for b in ("reference", backend)]
        assert_same(*(results(m, x, short)[0] for m in models), 1e-12)
    text = models[1].explain()
    assert f"the {net.top} best of" in text and "as large as the weights" not in text
    if backend == "interpret":
        whole = name != "perceptron"
        assert {e.inner is not None for e in engines(models[1])} == {whole}
        assert ("of 'd_first_2'" in text) == (not whole)


@pytest.mark.parametrize("sizes", [(0, 4, 9), (2, 1, 1)])
def test_empty_and_single(sizes):
    net = Heard(3).double()
    x, _ = given(net, *sizes)
    models = [gn.compile(net, backend=b) for b in ("reference", "interpret")]
    assert_same(*(results(m, x, {})[0] for m in models), 1e-12)


def cut(self: AttentionLauncher, programs: int, columns: int) -> tuple[int, int]:
    """Parts of 16 columns, instead of parts that fill a GPU."""
    return max(1, -(-columns // 16)), 16


@pytest.mark.parametrize("name", ["5 of 40", "16 of 17", "heard", "once"])
def test_parts_of_the_axis_are_merged(name, monkeypatch):
    """Parts with fewer than k slots, and equal scores in several parts."""
    torch.manual_seed(0)
    net = NETS[name]().double()
    x, _ = given(net, sources=37)
    wanted = results(gn.compile(net, backend="reference"), x, {})[0]
    monkeypatch.setattr(AttentionLauncher, "parts", cut)
    model = gn.compile(net, backend="interpret")
    with simulate.checking({"merge_lists": ["out_ptr"]}, threads=False) as reports:
        assert_same(wanted, results(model, x, {})[0], 1e-12)
    assert "merge_lists" in {r.kernel for r in reports}


@pytest.mark.parametrize("name", ["5 of 3", "once", "heads"])
def test_no_kernel_has_a_fault(name):
    """Addresses are within tensors, results are written once, and nothing is read before."""
    torch.manual_seed(0)
    net = NETS[name]().double()
    model = gn.compile(net, backend="interpret")
    x, lengths = given(net, sources=17)
    lengths = {k: v + 8 * (v > 8) for k, v in lengths.items()}
    wanted = results(model, x, lengths)[0]
    stores = {}
    for run in (run for engine in engines(model) for run in stages(engine)):
        names, program = run.function.arg_names, run.source.program
        stores[program.name] = names[len(program.tensors) : len(run.source.pointers)]
    with simulate.checking(stores) as reports:
        got = results(model, x, lengths)[0]
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)
    assert {r.kernel for r in reports} == stores.keys()


def test_only_chosen_slots_get_gradients():
    net = Slots(40, 5)
    q = torch.randn(1, 1, 8)
    for backend in ("torch", "interpret"):
        net.zero_grad()
        gn.compile(net, backend=backend)(q=q).sum().backward()
        assert [p.grad.any(-1).sum() for p in net.parameters()] == [5, 5]


@pytest.mark.parametrize("backend", ["torch", "interpret"])
def test_the_same_bits_every_time(backend):
    """This holds if many queries choose the same slots, and several threads sum."""
    torch.manual_seed(0)
    net = Slots(4, 2)
    queries = 4000 if backend == "torch" else 8
    q = torch.randn(2, queries, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    model, before = gn.compile(net, backend=backend), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (
            torch.autograd.grad(model(q=q).square().sum(), [q, *net.parameters()]) for _ in range(4)
        )
    finally:
        torch.set_num_threads(before)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_second_derivatives_and_torch_compile():
    net = Slots(9, 2).double()
    q = given(net, 1, 2)[0]["q"]
    model = gn.compile(net, backend="interpret")

    def twice(m):
        (d,) = torch.autograd.grad(m(q=q).square().sum(), q, create_graph=True)
        return torch.autograd.grad(d.square().sum(), [q, *net.parameters()])

    for a, b in zip(twice(gn.compile(net, backend="reference")), twice(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    fast = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted, got = (results_of(m, q) for m in (model, fast))
    assert all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True))


def results_of(model, q):
    y = model(q=q)
    return [y, *torch.autograd.grad(y.square().sum(), [q])]


def test_a_k_that_is_too_large_is_left_to_torch():
    text = gn.compile(Slots(300, top.MAX_K + 1), backend="interpret").explain()
    assert f"falls back: lists of more than {top.MAX_K}" in text and "torch computes it" in text


def test_the_first_of_equal_scores_are_chosen():
    x = torch.tensor([[1.0, 3.0, 2.0, 3.0, 2.0, 2.0], [0.0] * 6, [float("-inf")] * 6])
    assert top_positions(x, 3).tolist() == [[1, 2, 3], [0, 1, 2], [0, 1, 2]]
    made = torch.Generator().manual_seed(0)
    y = torch.randint(-3, 4, (50, 33), generator=made).float()
    for k in (1, 7, 33):
        order = torch.argsort(y, dim=-1, descending=True, stable=True)[:, :k]
        assert torch.equal(top_positions(y, k), order.sort(-1).values)


def fitting(net: nn.Module, target: str) -> None:
    """All kernels of a network's look-ups fit a GPU without spills."""
    for engine in engines(gn.compile(net.bfloat16(), backend="interpret")):
        for run in stages(engine):
            shape = choose_tile(run.source, "bf16", target, "ieee")
            row = attention_case(run.source, "bf16", shape).judge(target)
            assert not row.faults, row
        assert not top.merge_case(engine.part.top).judge(target).faults


def test_fits_without_spills():
    fitting(Slots(40, 32), "sm_90")


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", [*NETS, "128 of 200"])
def test_compiles_for_every_target(name, target):
    fitting({**NETS, "128 of 200": lambda: Slots(200, 128)}[name](), target)


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [40, 200_000])
def test_equals_the_reference_on_a_gpu(slots):
    """In float32, compared with the reference in float64; the same bits twice."""
    torch.manual_seed(0)
    net = Slots(slots, 32)
    x, _ = given(net)
    exact = gn.compile(copy.deepcopy(net).double(), backend="reference")
    wanted = results(exact, x, {})[0]
    model = gn.compile(net.cuda(), backend="triton")
    there = {k: v.detach().float().cuda().requires_grad_() for k, v in x.items()}
    got, again = (results(model, there, {})[0] for _ in range(2))
    assert all(torch.equal(got[k], again[k]) for k in got)
    low = {k: v.float() for k, v in wanted.items()}
    assert_same(low, {k: v.cpu() for k, v in got.items()}, 1e-3)
