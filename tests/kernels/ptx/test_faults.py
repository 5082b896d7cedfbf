"""Faults that only compiled kernels have, executed as PTX: with the mend taken back, and with it.

Each shows that a fault would be seen, and that today's kernels do not have it.
"""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl

import graphnn as gn
from graphnn.kernels.codegen import persistent
from graphnn.kernels.cooperative.plan import phases
from graphnn.kernels.executors.executor import KernelLaunch
from graphnn.kernels.executors.ptx import PtxExecutor, PtxRace
from graphnn.kernels.rules import table
from tests.backends.triton.places import INTERPRET
from tests.kernels.cooperative.test_slots import CELLS, Cell, given, run
from tests.kernels.rules.test_aliases import Late, Shifted

TARGETS = ("sm_80", "sm_90")
OPTIONS = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}


@triton.jit(do_not_specialize=["n"])
def rotated(start_ptr, x_ptr, out_ptr, n, OWN: tl.constexpr):
    """Three slots that begin as one value, or each as its own (`OWN`)."""
    columns = tl.arange(0, 128)
    start = tl.load(start_ptr + columns)
    first = start
    second = start * 1 if OWN else start
    third = start * 1 if OWN else start
    for t in tl.range(0, n, num_stages=1):
        x = tl.load(x_ptr + t * 128 + columns)
        made = x - 0.5 * first
        tl.store(out_ptr + t * 128 + columns, first)
        first = second
        second = third
        third = made


@pytest.mark.parametrize("target", TARGETS)
def test_a_variable_that_takes_the_place_of_its_equal_is_dropped_by_triton(target):
    torch.manual_seed(0)
    start, x = torch.randn(128), torch.randn(6, 128)
    slots, want = [start] * 3, []
    for row in x:
        want.append(slots[0])
        slots = [*slots[1:], row - 0.5 * slots[0]]
    wrong = []
    for own in (False, True):
        out = torch.zeros(6, 128)
        args = [start, x, out, 6]
        launch = KernelLaunch(rotated, (1,), args, {"OWN": own}, OPTIONS, (2,))
        PtxExecutor(target).run(launch)
        wrong.append([t for t in range(6) if (out[t] - want[t]).abs().max() > 1e-5])
    assert wrong == [[3, 4, 5], []]


def errors(net, inputs, target, strategy):
    """How far outputs and gradients of compiled kernels are from the reference."""
    torch.manual_seed(0)
    skip = INTERPRET.skip(strategy)
    model = gn.compile(net, backend="ptx", target=target, skip=skip)
    got = run(model, inputs, False)
    want = run(gn.compile(net, backend="reference"), inputs, False)
    sizes = (w.detach().abs().max().clamp_min(1e-3) for w in want)
    return max(
        float((a - b).detach().abs().max() / s) for a, b, s in zip(got, want, sizes, strict=True)
    )


def float32(net, **shapes):
    torch.manual_seed(0)
    for p in net.parameters():
        p.data = torch.randn(p.shape) * 0.3
    inputs = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    return net.float(), inputs


ONE_START = [lambda: Late(2), lambda: Late(3), Shifted]


@pytest.mark.ptx
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("net", ONE_START, ids=["delay 2", "delay 3", "shifted"])
def test_states_that_begin_as_one_value_are_right(net, target, monkeypatch):
    shapes = {"x": (3, 5, 20), "u0": (3, 20)}
    for strategy in ("resident", "cooperative"):
        assert errors(*float32(net(), **shapes), target, strategy) < 1e-5
    monkeypatch.setattr(persistent, "OWN", dict.fromkeys(persistent.OWN, "{0}"))
    with pytest.raises(AssertionError, match="loop variables are carried"):
        errors(*float32(net(), **shapes), target, "resident")
    monkeypatch.setattr(table, "_kept", lambda text: True)
    assert errors(*float32(net(), **shapes), target, "resident") > 0.1


@pytest.mark.ptx
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("delay", [2, 3])
def test_a_delayed_state_that_is_exchanged_alone_has_no_race(delay, target, monkeypatch):
    net, inputs = float32(Cell(delay), x=(3, 5, 5))
    assert errors(net, inputs, target, "cooperative") < 1e-5
    monkeypatch.setattr(phases._Schedule, "_slots", lambda self, carries: 2)
    with pytest.raises(AssertionError, match="'u0_all_ptr' is overwritten"):
        errors(net, inputs, target, "cooperative")
    monkeypatch.setattr(table, "_kept", lambda text: True)
    with pytest.raises(PtxRace, match="u0"):
        errors(net, inputs, target, "cooperative")


@pytest.mark.ptx
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("name", CELLS)
def test_no_mixture_of_states_has_a_race(name, ragged, target):
    net = CELLS[name]()
    inputs = {k: v.detach().float().requires_grad_() for k, v in given(net).items()}
    net, _ = float32(net)
    model = gn.compile(net, backend="ptx", target=target, skip=INTERPRET.skip("cooperative"))
    got = run(model, inputs, ragged)
    want = run(gn.compile(net, backend="reference"), inputs, ragged)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
