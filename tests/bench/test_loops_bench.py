"""The benchmark of loops, whole, at sizes for a CPU; and what it says of contenders that fail."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console

from bench import cases, loops, measure
from bench.cases import TINY, Case
from bench.report import show
from bench.variants import ALL

CASE = Case("RNN", 2, 2, 16, "float32")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def timed(case):
    return loops.contest(case, "interpret", "cpu", measure.clocked, 3)


def printed(found):
    text = StringIO()
    show(found, Console(file=text, width=220))
    return text.getvalue()


def test_the_whole_program_on_a_cpu(results, capsys):
    given = ["--backend", "interpret", "--tiny", "--rounds", "3", "--save", "tiny"]
    found = loops.main([*given, "--only", "RNN", "--only", "MinGRU"])
    assert json.loads((results / "tiny.json").read_text()) == found
    assert {"device", "torch", "triton", "commit", "date"} <= set(found["about"])
    regimes = {}
    for row in found["rows"]:
        assert row["failed"] == {} and set(row["errors"]) >= {"graphnn", "eager loop"}
        regimes[row["case"]["network"]] = {r["regime"] for r in row["regimes"].values()}
        for what in ("forward", "both"):
            ours = row[what]["graphnn"]
            assert ours["low"] <= ours["median"] <= ours["high"]
            assert ours["us_a_step"] == pytest.approx(ours["median"] * 1e3 / row["case"]["steps"])
            assert ours["bytes_a_second"] > 0 and row[what]["eager loop"]["over_graphnn"] > 0
    assert regimes == {"RNN": {"resident"}, "MinGRU": {"scan"}}
    shown = capsys.readouterr().out
    assert "resident" in shown and "absent: haste: not installed" in " ".join(shown.split())


def test_a_wrong_contender_is_reported_and_not_timed(monkeypatch):
    made = loops.Contest(CASE, "interpret", "cpu")
    right = made.runs["nn.RNN"]
    made.runs["nn.RNN"] = lambda: right() * 1.1
    made.check()
    assert made.failed["nn.RNN"].startswith("wrong by ") and "nn.RNN" not in made.runs
    assert set(made.runs) == {"graphnn", "eager loop"} and made.errors["graphnn"] < 1e-5


def test_nan_is_wrong():
    made = loops.Contest(CASE, "interpret", "cpu")
    right = made.runs["graphnn"]
    made.runs["graphnn"] = lambda: right() * float("nan")
    made.check()
    assert "graphnn" in made.failed


def test_a_contender_that_raises_is_reported_and_the_rest_are_timed(monkeypatch):
    contenders = loops.Contest._runs

    def broken(self):
        def fails():
            raise RuntimeError("no such kernel")

        return {**contenders(self), "graphnn": fails}

    monkeypatch.setattr(loops.Contest, "_runs", broken)
    row = timed(CASE)
    assert row["failed"] == {"graphnn": "RuntimeError: no such kernel"}
    assert "nn.RNN" in row["forward"] and "graphnn" not in row["forward"]
    shown = printed({"about": loops.about("cpu"), "rows": [row], "not_reached": []})
    assert "failed: graphnn: RuntimeError: no such kernel" in shown


def test_a_case_that_cannot_be_set_up_is_a_row(monkeypatch):
    row = timed(replace(CASE, network="LSTM", dtype="no_such_dtype"))
    assert "AttributeError" in row["failed"]["all"]
    assert "AttributeError" in printed(
        {"about": loops.about("cpu"), "rows": [row], "not_reached": ["LSTM"]}
    )


def test_what_the_budget_does_not_reach_is_named(results):
    found = loops.main(["--backend", "torch", "--tiny", "--budget", "1e-9"])
    assert found["rows"] == [] and found["not_reached"] == [str(c) for c in TINY]


def test_an_unknown_network_is_refused():
    with pytest.raises(SystemExit, match=r"no case of \['Lstm'\]"):
        loops.main(["--tiny", "--backend", "torch", "--only", "Lstm"])


@pytest.mark.parametrize("name", ALL)
def test_every_network_computes_what_its_eager_loop_does(name):
    made = loops.Contest(Case(name, 4, 2, 8, "float32"), "torch", "cpu")
    made.check()
    assert made.failed == {} and max(made.errors.values()) < 1e-4


def test_the_cases_are_there_once_and_compiled_only_where_short():
    assert len(set(cases.GPU)) == len(cases.GPU) and set(cases.QUICK) <= set(cases.GPU)
    assert {c.network for c in cases.GPU} == set(ALL)
    assert all(c.steps <= cases.COMPILED_STEPS for c in cases.GPU if c.compiled)


@pytest.mark.gpu
def test_a_case_on_a_gpu():
    case = Case("LSTM", 16, 4, 64, "float32")
    row = loops.contest(case, "triton", "cuda", measure.Events(), 3)
    assert row["failed"] == {} and row["both"]["graphnn"]["peak_bytes"] > 0
    assert torch.cuda.is_available()
