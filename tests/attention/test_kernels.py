"""Attention kernels: the resources they need, their faults under the checker, split loops."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.backends.torch.program import Program
from graphnn.backends.triton.attention.operators import AttentionKernels, KernelStage
from graphnn.backends.triton.attention.statistics import StatisticsKernels
from graphnn.kernels import simulate
from graphnn.kernels.attention.launch import AttentionLauncher
from graphnn.kernels.attention.tile_size import attention_case, choose_tile
from graphnn.kernels.feasibility import aot
from tests.attention.networks import NETWORKS, Additive, Net, Slots, inputs, ragged
from tests.attention.readers import READERS
from tests.networks.equality import assert_same, results


def stages(net: nn.Module) -> list[KernelStage]:
    """All kernels of a network's attention, hop by hop."""
    model = gn.compile(net, backend="interpret", skip=("hops",))
    return of(model.program())


def of(program: Program) -> list[KernelStage]:
    """All kernels of a program's attention."""
    found = []
    for attend in program.attends:
        engine = attend.engine
        assert isinstance(engine, AttentionKernels)
        found += engine.stages if isinstance(engine, StatisticsKernels) else [engine.forward_stage]
        found += engine.backward_of(*engine.full).stages if engine.part.ends else []
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_one_kernel_forward_and_two_backward(name):
    """Backward: rows of queries, and rows of keys; only one if each query has its own keys."""
    names = [s.kernel.program.name for s in stages(NETWORKS[name]())]
    if name == "spread":  # other readers of the weights have kernels of their own
        assert [n for n in names if n.startswith("weights")] == [
            "weights_over_source_queries",
            "weights_over_source_backward_queries",
            "weights_over_source_backward_keys",
        ]
        names = [n for n in names if not n.startswith("weights")]
    count = 2 if name in ("story", "spread") else 1
    ways = ["", "_backward_queries"] + ["_backward_keys"] * (name != "story")
    assert len(names) == count * len(ways)
    assert len(set(names)) == len(names)
    for n, way in zip(names, ways * count, strict=True):
        assert n.endswith(way)


ALL = {**NETWORKS, **{f"read, {k}": v for k, v in READERS.items()}}
CHECKED = ["additive", "capped", "perceptron", "grouped", "slots", "story", "read, masked"]


@pytest.mark.parametrize("name", CHECKED)
def test_no_kernel_has_a_fault(name):
    """Addresses are within tensors, results are written once, and nothing is read before."""
    net = ALL[name]().double()
    model = gn.compile(net, backend="interpret", skip=("hops",))
    given = inputs(model, 2, 3, 17)
    lengths = ragged(model, given)
    wanted = results(model, given, lengths)[0]
    stores = {}
    for stage in [s for program in model.programs for s in of(program)]:
        names = stage.run.function.arg_names
        program = stage.run.source.program
        stores[program.name] = names[len(program.tensors) : len(stage.run.source.pointers)]
    with simulate.checking(stores) as reports:
        got = results(model, given, lengths)[0]
    assert all(torch.equal(got[k], wanted[k]) for k in wanted)
    assert {r.kernel for r in reports} == stores.keys()


CUT = ["additive", "capped", "slots", "story", "perceptron"]


@pytest.mark.parametrize("name", [*CUT, pytest.param("read, masked", marks=pytest.mark.slow)])
def test_a_loop_split_into_parts(name, monkeypatch):
    """Each part of the columns is a program of its own; parts are merged by their log-sum-exp."""
    net = ALL[name]().double()
    given = inputs(gn.compile(net), 2, 3, 150)
    wanted = results(gn.compile(net, backend="reference"), given, {})[0]
    seen = []
    whole = AttentionLauncher.parts

    def cut(self, programs, columns):
        length = 128 if columns > 128 else 16
        parts = (max(1, -(-columns // length)), length)
        seen.append(parts[0])
        return parts if columns else whole(self, programs, columns)

    monkeypatch.setattr(AttentionLauncher, "parts", cut)
    model = gn.compile(net, backend="interpret", skip=("hops",))
    assert_same(wanted, results(model, given, {})[0], 1e-12)
    assert max(seen) > 1


def test_parts_fill_a_gpu_and_are_long():
    run = stages(Slots())[0].run
    assert run.parts(1, 10**6) == (261, 3840)
    assert run.parts(1, 1500) == (1, 1500) and run.parts(500, 10**6) == (1, 10**6)
    parts, length = run.parts(3, 10**5)
    assert (parts - 1) * length < 10**5 <= parts * length and length >= 1024


def test_the_same_bits_every_time():
    for backend in ("torch", "interpret"):
        net = Additive()
        model = gn.compile(net, backend=backend)
        given = inputs(model, 2, 3, 17, torch.float32)
        first, again = (results_of(model, given) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def results_of(model, given):
    y = model(**given)
    return [y, *torch.autograd.grad(y.square().sum(), [*given.values(), *model.parameters()])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("make", [Additive, Net])
def test_as_precise_as_torch(make, dtype):
    """At most twice the error of torch; values near zero are compared to the largest."""
    torch.manual_seed(0)
    net = make(16, 16).to(dtype)
    exact = gn.compile(make(16, 16).double())
    exact.load_state_dict(net.double().state_dict())
    given = inputs(exact, 2, 17, 40)
    given = {k: v.to(dtype).double().detach().requires_grad_() for k, v in given.items()}
    wanted = results_of(exact, given)
    net = net.to(dtype)
    low = {k: v.to(dtype).detach().requires_grad_() for k, v in given.items()}
    ways = {b: gn.compile(net, backend=b) for b in ("interpret", "torch")}
    eager = results_of(gn.compile(net, skip=("attend",)), low)
    for model in ways.values():
        small = torch.finfo(dtype).eps * max(float(a.detach().norm()) for a in wanted)
        for a, b, c in zip(wanted, results_of(model, low), eager, strict=True):
            error, allowed = ((x.double() - a).detach().norm() for x in (b, c))
            assert error <= 2 * allowed + small


FITS: dict[str, Callable[[], nn.Module]] = {
    "dot": lambda: Net(64, 64),
    "additive": lambda: Additive(64, 64),
    "slots": Slots,
}


@pytest.mark.parametrize("name", FITS)
def test_fits_without_spills(name):
    for stage in stages(FITS[name]().bfloat16()):
        shape = choose_tile(stage.run.source, "bf16", "sm_90", "ieee")
        row = attention_case(stage.run.source, "bf16", shape).judge("sm_90")
        assert not row.faults, row


@pytest.mark.slow
@pytest.mark.parametrize("target", aot.TARGETS)
@pytest.mark.parametrize("name", ALL)
def test_compiles_for_every_target(name, target):
    for stage in stages(ALL[name]().bfloat16()):
        shape = choose_tile(stage.run.source, "bf16", target, "ieee")
        row = attention_case(stage.run.source, "bf16", shape).judge(target)
        assert row.resources is not None and not row.resources.spills, row


@pytest.mark.gpu
@pytest.mark.parametrize("name", ALL)
def test_equals_the_reference_on_a_gpu(name):
    """In float32, compared with the reference in float64; the same bits twice."""
    torch.manual_seed(0)
    net = ALL[name]()
    exact = gn.compile(copy.deepcopy(net).double(), backend="reference")
    given = inputs(exact, 2, 63, 130)
    wanted = results(exact, given, {})[0]
    model = gn.compile(net.cuda(), backend="triton")
    there = {
        k: _single(v.detach()).cuda().requires_grad_(v.requires_grad) for k, v in given.items()
    }
    got, again = (results(model, there, {})[0] for _ in range(2))
    assert all(torch.equal(got[k], again[k]) for k in got)
    low = {k: _single(v) for k, v in wanted.items()}
    assert_same(low, {k: v.cpu() for k, v in got.items()}, 1e-3)


def _single(x):
    return x.float() if x.is_floating_point() else x
