"""Profiles with a fake clock: all parts are listed, shares add up, the code is unchanged."""

import functools
import json
import linecache

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.bench.versus import versus
from graphnn.errors import AxisError, TimingError
from graphnn.inspection.marks import Clock, Trail, marked, watched
from graphnn.inspection.profile import BACKWARD, FORWARD
from graphnn.planner.core.device_constants import CPU
from graphnn.runtime.profiling import profile
from graphnn.timing.contender_weights import weights
from graphnn.timing.results import load
from graphnn.tools.compare import compare
from graphnn.tools.example_inputs import random_inputs


class Ticks(Clock):
    """A fake clock that advances by one second at each reading."""

    def __init__(self):
        self.t = 0.0

    def now(self):
        self.t += 1.0
        return self.t


class Net(nn.Module):
    """A map before the loop, a cell, a map after it."""

    def __init__(self):
        super().__init__()
        self.enc, self.dec = nn.Linear(3, 4), nn.Linear(5, 2)
        self.cell = gn.nn.GRU(4, 5, reset="before")

    def graph(self, g):
        h = torch.relu(self.enc(g.input("x", (3,), over="time")))
        g.output("y", self.dec(self.cell(h)))


class Both(nn.Module):
    """Two directions and attention over them: several loops, and reductions."""

    def __init__(self):
        super().__init__()
        self.cell = gn.nn.LSTM(3, 4, bidirectional=True, peepholes=True)

    def graph(self, g):
        h = self.cell(g.input("x", (3,), over="time"))
        g.output("y", gn.sum(gn.softmax(h, over="time") * h, over="time"))


X = torch.randn(2, 6, 3)
BEFORE = "enc, relu, affine, …"


def parts(found, direction=FORWARD):
    return [r.part for r in found.rows if r.direction == direction and not r.kernel]


def test_all_parts_are_listed_in_order_with_their_limits():
    found = profile(gn.compile(Net()), {"x": X}, rounds=3, limits=CPU, clock=Ticks())
    assert parts(found) == ["call", BEFORE, "loop cell.h", "dec"]
    assert parts(found, BACKWARD) == ["loop cell.h", "whole axes"]
    by = {(r.part, r.direction): r for r in found.rows}
    assert by["loop cell.h", FORWARD].how == "stepwise"
    for row in found.rows:
        assert row.low <= row.median <= row.high
    for name in (BEFORE, "loop cell.h", "dec"):
        assert by[name, FORWARD].limit > 0 and by[name, FORWARD].expected > 0
    assert by["loop cell.h", BACKWARD].limit > by["loop cell.h", FORWARD].limit


def test_the_parts_add_up_to_the_total_time():
    found = profile(gn.compile(Net()), {"x": X}, rounds=3, limits=CPU, clock=Ticks())
    spent = sum(r.median for r in found.rows if not r.kernel)
    assert spent == pytest.approx(found.total)
    assert sum(r.share for r in found.rows if not r.kernel) == pytest.approx(1.0)


def test_a_profile_without_gradients_has_no_backward_rows():
    model = gn.compile(Net())
    found = profile(model, {"x": X}, backward=False, rounds=2, limits=CPU, clock=Ticks())
    assert parts(found, BACKWARD) == []
    for p in model.parameters():
        p.requires_grad_(False)
    assert parts(profile(model, {"x": X}, rounds=1, limits=CPU, clock=Ticks()), BACKWARD) == []


def test_kernels_have_their_own_rows():
    model = gn.compile(Net(), backend="interpret")
    found = profile(model, {"x": X[:1, :2]}, rounds=1, limits=CPU, clock=Ticks())
    kernels = [(r.part, r.direction) for r in found.rows if r.kernel]
    assert ("cell_h_saving", FORWARD) in kernels and ("cell_h_backward", BACKWARD) in kernels


@pytest.mark.parametrize("net", [Net, Both])
@pytest.mark.parametrize("lengths", [None, {"time": torch.tensor([6, 2])}])
def test_marks_do_not_change_the_results(net, lengths):
    model = gn.compile(net().double())
    x = X.double()
    wanted = model(x=x, lengths=lengths)
    program = next(iter(model.programs))
    main = program.main
    trail = Trail(Ticks())
    with watched(program, trail):
        assert torch.equal(model(x=x, lengths=lengths), wanted)
    assert program.main is main
    assert len(trail.marks) == len(program.pieces) + 1
    assert trail.parts() == [1.0] * len(program.pieces)


def test_marked_code_differs_from_the_program_only_by_its_marks():
    model = gn.compile(Net())
    program = model.program()
    code = marked(program, lambda: None).__code__
    lines = linecache.getlines(code.co_filename)
    unmarked = [x for x in lines if x.strip() != "mark()"]
    assert "".join(unmarked) == program.source and len(lines) > len(unmarked)


def test_a_loop_that_runs_as_a_torch_layer_is_named_after_it():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = gn.nn.LSTM(3, 4)

        def graph(self, g):
            g.output("y", self.lstm(g.input("x", (3,), over="time")))

    found = profile(gn.compile(Layer()), {"x": X}, rounds=1, limits=CPU, clock=Ticks())
    assert "torch's LSTM" in parts(found)[1]


def test_a_ragged_profile_prints_a_table_and_is_valid_json():
    lengths = {"time": torch.tensor([6, 2])}
    found = profile(gn.compile(Net()), {"x": X}, lengths, rounds=2, limits=CPU, clock=Ticks())
    text = str(found)
    assert "loop cell.h" in text and "backward of whole axes" in text and "limits: copy" in text
    assert json.loads(json.dumps(found.record()))["rows"][0]["part"] == "call"


def test_profile_and_explain_of_a_model_measure():
    model = gn.compile(Net())
    assert parts(model.profile(x=X)) == ["call", BEFORE, "loop cell.h", "dec"]
    text = model.explain(measure={"x": X})
    assert text.startswith(model.explain().splitlines()[0].split(";")[0])
    assert "measured, next to what the cost model expects:" in text and "expected ms" in text


def test_profiling_the_reference_backend_or_zero_rounds_is_refused():
    with pytest.raises(TimingError, match="no parts"):
        gn.compile(Net(), backend="reference").profile(x=X)
    with pytest.raises(TimingError, match="one round"):
        profile(gn.compile(Net()), {"x": X}, rounds=0)


def one_second(run):
    run()
    return 1.0


def test_compare_rejects_wrong_contenders_and_times_the_rest():
    net = Net()
    model = gn.compile(net)
    reference = gn.compile(net, backend="reference")
    x = X.clone().requires_grad_()
    found = compare(
        {"mine": model, "same": reference, "wrong": lambda x: model(x=x) * 1.1},
        {"x": x},
        limits=CPU,
        timer=one_second,
    )
    assert found.median("mine") == found.median("same", "forward and backward") == 1000
    with pytest.raises(TimingError, match="'wrong' was not timed") as error:
        found.median("wrong")
    assert "wrong by 1.0e-01" in str(error.value)
    text = str(found)
    assert "failed: wrong: wrong by" in text and "of limit" in text


def test_compare_accepts_positional_inputs_and_saves_results_for_bench(tmp_path):
    gru, x = nn.GRU(3, 4, batch_first=True), torch.randn(2, 5, 3)
    found = gn.compare(
        {"gru": gru, "again": lambda x: gru(x)}, [x], limits=CPU, timer=one_second, name="gru"
    )
    found.save(tmp_path / "gru.json")
    saved = load(tmp_path / "gru.json")
    assert saved["about"]["lead"] == "gru"
    assert all(c.verdict == "within noise" for c in versus(saved, saved).changes)


def test_compare_refuses_no_contenders_and_unknown_names():
    with pytest.raises(TimingError, match="nothing to compare"):
        gn.compare({}, [])
    with pytest.raises(TimingError, match="no contender"):
        gn.compare({"a": torch.tanh}, [X], slow=["b"])


def test_random_inputs_follow_the_declarations_of_the_graph():
    g = gn.Graph("tokens")
    t = g.input("t", (), over="time", dtype=torch.int64)
    f = g.input("f", (2,), over="time", dtype=torch.float64)
    g.axis("slot", 3)
    g.output("y", f * t)
    model = gn.compile(g)
    inputs = random_inputs(model, {"time": 5, "batch": 2})
    assert (
        inputs["t"].shape == (2, 5) and inputs["t"].dtype == torch.int64 and not inputs["t"].any()
    )
    assert inputs["f"].shape == (2, 5, 2) and inputs["f"].dtype == torch.float64
    assert torch.equal(random_inputs(model)["f"], random_inputs(model)["f"])
    with pytest.raises(AxisError, match="'slot'"):
        random_inputs(model, {"slot": 4})


def test_all_contenders_are_differentiated_with_respect_to_the_same_leaves():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    layers = list(net)
    bias = torch.ones(2, requires_grad=True)

    def eager(x):
        return layers[1](layers[0](x)) + 0 * bias

    partial = functools.partial(torch.nn.functional.linear, weight=bias)
    wanted = {id(t) for t in (*net.parameters(), bias)}
    assert {id(t) for t in weights([net, eager])} == wanted
    assert [id(t) for t in weights([partial])] == [id(bias)]
    assert [id(t) for t in weights([_applies_a_global_module])] == [
        id(p) for p in NAMED.parameters()
    ]
    assert weights([torch.tanh, max, print]) == []
    x = torch.randn(5, 4)
    found = gn.compare(
        {"net": net, "eager": eager, "still": lambda x: net(x).detach()},
        [x],
        limits=CPU,
        timer=one_second,
    )
    both = next(r for r in found.found["rows"] if r["pass"] == "forward and backward")
    assert set(both["contenders"]) == {"net", "eager"}
    assert both["absent"] == {"still": "its results depend on nothing that requires a gradient"}
    assert repr(found) == str(found) and found._repr_html_().startswith("<pre>")


NAMED = nn.Linear(2, 2)


def _applies_a_global_module(x):
    return [NAMED(row) for row in x]
