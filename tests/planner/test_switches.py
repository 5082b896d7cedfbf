"""Switches change generated code but neither outputs nor gradients, compared in float64.

For every switch, the code of some network differs without it.
"""

import pytest
import torch

import graphnn as gn
from bench.networks import NETWORKS
from graphnn.planner import pipeline
from graphnn.planner.pipeline import SWITCHABLE
from tests.planner.pass_examples import FIXED, SWITCHES, generated_text, without

LSTMS = ("LSTM", "GRU", "the same, gate by gate", "peepholes, gate by gate")
# for each switch, networks whose generated code it changes
CHANGED = {
    "simplify": ("two speeds",),
    "split": ("reset-before GRU", "peepholes, gate by gate", "two speeds"),
    "gather": ("multiplicative integration",),
    "hoist": ("LSTM", "RNN", "reset-before GRU", "multiplicative integration", "two speeds"),
    "merge": (*LSTMS, "reset-before GRU", "multiplicative integration", "two speeds"),
    "contract": (*LSTMS, "reset-before GRU", "independent neurons", "multiplicative integration"),
    "recompute": (*LSTMS, "reset-before GRU", "multiplicative integration", "two speeds"),
    "all": tuple(NETWORKS),
}
OPTIONS = {"recompute": {"recompute": True}, "all": {"skip": SWITCHABLE}}


def assert_equal(got, wanted, dtype=torch.float64):
    bound = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(got, wanted, rtol=bound, atol=bound)


def results(model, x):
    y, state = model(x=x, return_state=True)
    loss = y.square().sum() + sum(v.sum() for v in state.values())
    return [y, *state.values(), *torch.autograd.grad(loss, [x, *model.parameters()])]


@pytest.mark.parametrize("off, name", [(off, name) for off in CHANGED for name in CHANGED[off]])
def test_results_do_not_depend_on_a_switch(name, off):
    torch.manual_seed(0)
    net = NETWORKS[name](3).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    without = gn.compile(net, **OPTIONS.get(off, {"skip": (off,)}))
    model = gn.compile(net)
    assert without.source() != model.source(), "both programs are the same"
    assert_equal(results(without, x), results(model, x))


def test_every_switch_has_an_example():
    assert SWITCHES.keys() == set(SWITCHABLE)


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_changes_the_code_but_not_the_results(switch):
    example = SWITCHES[switch]
    model, without = example.compiled(), example.compiled(switch)
    wanted, got = example.results(model), example.results(without)
    assert generated_text(model) != generated_text(without)
    assert_equal(got, wanted, example.dtype)


@pytest.mark.parametrize("stage, name", FIXED)
def test_a_pass_without_a_switch_changes_the_code(stage, name, monkeypatch):
    example, same = FIXED[stage, name]
    model = example.compiled()
    wanted = example.results(model)
    monkeypatch.setattr(pipeline, "PASSES", without(stage, name))
    other = example.compiled()
    got = example.results(other)
    assert generated_text(model) != generated_text(other)
    if same:
        assert_equal(got, wanted)


@pytest.mark.parametrize("narrowest", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_results_do_not_depend_on_work_moved_into_loops(name, narrowest, monkeypatch):
    """The width above which work moves into a loop's steps does not affect results."""
    torch.manual_seed(0)
    net = NETWORKS[name](3).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    plain = results(gn.compile(net, skip=("sink",)), x)
    monkeypatch.setattr("graphnn.planner.loops.sink.WIDE", narrowest)
    assert_equal(results(gn.compile(net), x), plain)
