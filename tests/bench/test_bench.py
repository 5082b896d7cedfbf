"""The benchmark at tiny sizes: contenders are checked, and wrong or missing ones are reported."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from graphnn.bench import cases, peers
from graphnn.bench.attention import KINDS
from graphnn.bench.cases import COMPILED_STEPS, DEEP, SUITES, Case, attention, lookup, loop
from graphnn.bench.prepare import EAGER, LAYER_OF_TORCH, positions, prepare, subject
from graphnn.bench.suite import run_suite, select
from graphnn.bench.variants import ALL
from graphnn.cli import main
from graphnn.errors import TimingError
from graphnn.planner.core.device_constants import CPU
from graphnn.timing.contest import BOTH, FORWARD
from graphnn.timing.suite import OURS

RNN = loop("RNN", 2, 2, 16)


def constant_timer():
    """Returns a timer that runs its argument and always reports one second."""

    def timer(run):
        run()
        return 1.0

    return timer


def prepared_case(case, backend="torch"):
    return prepare(case, backend, "cpu", CPU, 60.0)


def checked_contest(case, backend="torch"):
    contest = prepared_case(case, backend).contest
    contest.check(constant_timer())
    return contest


def test_the_whole_program_with_the_interpreter(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    suite = select("tiny", ["RNN", "MinGRU"])
    path = tmp_path / "tiny.json"
    found = run_suite(suite, "interpret", str(path), constant_timer(), CPU, rounds=3)
    assert json.loads(path.read_text()) == json.loads(json.dumps(found))
    assert {"device", "torch", "triton", "commit", "date", "backend"} <= set(found["about"])
    strategies = {}
    for row in found["rows"]:
        assert row["failed"] == {}
        assert row["pass"] in (FORWARD, BOTH)
        assert {OURS, EAGER} <= set(row["contenders"])
        ours = row["contenders"][OURS]
        assert ours["median"] == 1000 and ours["bytes_a_second"] == row["bytes"] > 0
        assert row["contenders"][EAGER]["ratio"] == 1.0
        kinds = {r["strategy"] for r in row.get("strategies", {}).values()}
        strategies.setdefault(row["case"]["network"], set()).update(kinds)
        assert row["absent"]["torch.compile"].startswith("unrolls loops")
    assert "resident" in strategies["RNN"] and "scan" in strategies["MinGRU"]


@pytest.mark.parametrize("name", ALL)
def test_every_loop_equals_its_eager_loop(name):
    contest = checked_contest(loop(name, 4, 2, 8))
    assert contest.failed == {} and max(contest.errors.values()) < 1e-4
    assert set(contest.runs) >= {OURS, EAGER}


@pytest.mark.parametrize(
    "case",
    [
        attention("additive attention", 2, 3, 5, 4),
        attention("dot attention", 1, 3, 4, 8),
        lookup(2, 7, 4),
    ],
    ids=lambda case: case.network,
)
def test_attention_equals_its_eager_code(case):
    prepared = prepared_case(case)
    contest = prepared.contest
    contest.runs.pop("torch.compile")  # takes many seconds
    contest.check(constant_timer())
    assert contest.failed == {} and max(contest.errors.values()) < 1e-5
    assert ("SDPA" in contest.runs) == (case.network != "additive attention")
    assert all(w.bytes > 0 and w.flops > 0 for w in prepared.work.values())


def test_a_wrong_output_gets_no_time():
    contest = prepared_case(RNN).contest
    right = contest.runs[LAYER_OF_TORCH]
    contest.runs[LAYER_OF_TORCH] = lambda: right() * 1.1
    contest.check(constant_timer())
    assert contest.failed[LAYER_OF_TORCH].startswith("wrong by ")
    assert all(LAYER_OF_TORCH not in runs for runs in contest.passes().values())
    assert set(contest.runs) == {OURS, EAGER} and contest.errors[OURS] < 1e-5


def test_a_wrong_gradient_gets_no_time():
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return 2 * g

    contest = prepared_case(RNN).contest
    right = contest.runs[OURS]
    contest.runs[OURS] = lambda: Twice.apply(right())
    contest.check(constant_timer())
    assert contest.failed[OURS].startswith("wrong by ") and OURS not in contest.runs


def test_long_sequences_are_checked_against_the_eager_loop_in_float64():
    case = loop("RNN", 70, 1, 4)
    assert positions(case) > 64
    prepared = prepared_case(case)
    assert prepared.details()["right"] == "the eager loop, float64"
    assert prepared_case(RNN).details()["right"] == "the reference, float64"
    prepared.contest.check(constant_timer())
    assert prepared.contest.failed == {}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_has_its_own_tolerance(dtype):
    contest = checked_contest(loop("GRU", 3, 2, 8, dtype))
    assert contest.failed == {} and 1e-5 < contest.errors[EAGER] < 5e-2


def test_cases_are_deterministic():
    first, second = subject(RNN, "cpu"), subject(RNN, "cpu")
    assert torch.equal(first.inputs["x"], second.inputs["x"])
    for a, b in zip(first.net.parameters(), second.net.parameters()):
        assert torch.equal(a, b)


def test_steps_and_planning_are_separate_passes():
    case = loop("LSTM", 3, 2, 8, extra=cases.EXTRA)
    prepared = prepared_case(case)
    assert set(prepared.passes["step"]) == {OURS, LAYER_OF_TORCH, EAGER}
    assert set(prepared.passes["planning"]) == {OURS}
    for runs in prepared.passes.values():
        for run in runs.values():
            run()
    planned = prepared_case(Case(DEEP, (("H", 8),)))
    assert planned.contest.runs == {} and set(planned.passes) == {"planning"}


def test_missing_libraries_are_listed_with_the_reason():
    absent = checked_contest(loop("LSTM", 2, 1, 4)).absent
    assert absent["FlashRNN"] == absent["haste"] == "not installed"
    assert (
        checked_contest(loop("MinGRU", 2, 1, 4)).absent["flash-linear-attention"] == "not installed"
    )
    dot = prepared_case(attention("dot attention", 1, 2, 3, 4)).contest.absent
    assert dot["FlashAttention"] == "not installed" and "CPU" in dot["FlexAttention"]


def test_a_library_that_cannot_run_is_listed_with_the_reason(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: True)
    library = peers.LIBRARIES[-1]
    assert peers.missing(library, "cpu", "float16") == "runs on a GPU only"
    assert peers.missing(library, "cuda", "float32") == "supports half precision only"
    present, absent = peers.others(None, "LSTM", "cuda", "float32")
    assert present == {} and absent["FlashRNN"].startswith("ModuleNotFoundError")


def test_suites_have_each_case_once_and_unroll_only_short_loops():
    for name, suite in SUITES.items():
        records = [str(c.record()) for c in suite.cases]
        assert len(set(records)) == len(records), name
        long = [c for c in suite.cases if c.compiled and c.network in ALL]
        assert all(c.size("T") <= COMPILED_STEPS for c in long), name
    quick = {c.network for c in SUITES["quick"].cases}
    expected = {"LSTM", "GRU", "reset-before GRU", "two speeds", "additive attention", "lookup"}
    assert expected == quick
    assert {c.network for c in SUITES["gpu"].cases} == {*ALL, *KINDS}
    assert SUITES["quick"].budget < 120 and SUITES["gpu"].budget < 600


def test_sizes_vary_one_at_a_time():
    middle = loop("LSTM", 8, 4, 16, extra=("step",), compiled=True)
    around = list(cases.each(middle, T=(8, 32), H=(16, 64)))
    assert [dict(c.sizes) for c in around] == [
        {"T": 32, "B": 4, "H": 16},
        {"T": 8, "B": 4, "H": 64},
    ]
    assert all(c.extra == () and not c.compiled for c in around)


def test_an_unknown_network_is_an_error_of_one_line(capsys):
    assert main(["bench", "--only", "Lstm"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no case of 'Lstm'" in error and "LSTM" in error


def test_a_missing_gpu_is_an_error_of_one_line(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "--gpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "no GPU" in error and "--quick" in error


def test_an_unwritable_file_is_an_error_before_timing():
    with pytest.raises(TimingError, match="cannot be written"):
        run_suite(select("tiny"), "torch", "/no/such/folder/a.json", constant_timer())


def test_compile_time_is_divided_among_contenders(monkeypatch):
    """A later contender gets the compile time that the earlier ones have left."""
    timeouts = []

    def fake(case, backend, device, limits, patience):
        timeouts.append(patience)
        prepared = prepared_case(case)
        prepared.contest.slow = frozenset({EAGER})
        prepared.contest.patience = patience
        return prepared

    monkeypatch.setattr("graphnn.bench.suite.prepare", fake)
    suite = select("tiny", ["RNN", "LSTM", "MinGRU"])
    clock = itertools.repeat(7.0)

    def timer(run):
        run()
        return next(clock)

    run_suite(suite, "torch", None, timer, CPU, rounds=1, patience=10.0, compiling=12.0)
    assert timeouts == [10.0, 5.0, 1.0]


@pytest.mark.gpu
def test_a_case_on_a_gpu():
    suite = select("tiny", ["LSTM"])
    found = run_suite(suite, "triton", rounds=3)
    assert all(r["failed"] == {} for r in found["rows"])
    assert all(r["contenders"][OURS]["peak_bytes"] > 0 for r in found["rows"])
