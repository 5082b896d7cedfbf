"""Benchmark suites with a fake clock: sweeps, budgets, failures, and how they are reported."""

from dataclasses import dataclass
from io import StringIO

import pytest
import torch
from rich.console import Console

from graphnn.cli import main
from graphnn.planner.core.cost import Work
from graphnn.planner.core.device_constants import CPU
from graphnn.timing import results, table
from graphnn.timing.contest import BOTH, FORWARD, Contest
from graphnn.timing.suite import Prepared, SuitePlan, model_error, run
from tests.timing import fake_results


@dataclass(frozen=True)
class Case:
    name: str

    def record(self):
        return {"network": self.name, "sizes": {"H": 1}, "dtype": "float32"}


class Machine:
    """A fake machine with its own clock, on which each contender takes a fixed time."""

    def __init__(self, seconds):
        self.seconds, self.log = seconds, []
        self.clock = 0.0
        self.x = torch.ones(2, requires_grad=True)

    def prepare(self, case):
        if case.name == "broken":
            raise MemoryError("too large")
        runs = {name: self.contender(case.name, name) for name in self.seconds}
        contest = Contest(case.name, runs, [self.x])
        work = {FORWARD: Work(flops=1e6, bytes=1e3), BOTH: Work(flops=3e6, bytes=2e3)}
        return Prepared(contest, work, expected={FORWARD: 2.0})

    def contender(self, case, name):
        def call():
            self.log.append((case, name))
            return self.x * 2

        return call

    def timer(self, call):
        call()
        taken = self.seconds[self.log[-1][1]]
        self.clock += taken
        return taken

    def run(self, names, plan, saved=lambda found: None):
        found = fake_results.results([])
        cases = [Case(n) for n in names]
        now = lambda: self.clock
        return run(cases, self.prepare, found, CPU, self.timer, plan, "cpu", saved, now)


def test_every_case_and_pass_has_a_row_with_its_limit_and_prediction():
    found = Machine({"graphnn": 1.0, "eager": 3.0}).run(["A", "B"], SuitePlan(3, 100.0, 1))
    labels = [results.label(r) for r in found["rows"]]
    assert labels == [(f"{n} H1 float32", w) for n in "AB" for w in (FORWARD, BOTH, "first call")]
    row = found["rows"][0]
    assert row["contenders"]["eager"]["ratio"] == 3.0
    assert row["contenders"]["graphnn"]["flops_a_second"] == pytest.approx(1e6)
    assert row["least_ms"] == pytest.approx(1e6 / 371e9 * 1e3) and row["bound"] == "products"
    assert row["contenders"]["graphnn"]["of_limit"] == pytest.approx(row["least_ms"] / 1e3)
    assert row["expected_ms"] == 2000.0
    assert model_error(found) == (2.0, 2.0, "B H1 float32, forward")


def test_each_sweep_covers_all_cases_before_the_next_starts():
    machine = Machine({"graphnn": 1.0})
    found = machine.run(["A", "B"], SuitePlan(3, 100.0, 2))
    order = [a[0] for a, b in zip(machine.log, [*machine.log[1:], ("", "")]) if a[0] != b[0]]
    assert order == ["A", "B", "A", "B"]
    assert len(found["rows"][0]["contenders"]["graphnn"]["sweeps"]) == 2
    assert found["rows"][0]["contenders"]["graphnn"]["rounds"] == 6


def test_cases_beyond_the_budget_are_listed_and_later_sweeps_skipped():
    machine = Machine({"graphnn": 1.0})
    found = machine.run(["A", "B", "C"], SuitePlan(3, 1.0, 2, budget=15.0))
    reached = {r["case"]["network"] for r in found["rows"]}
    assert reached == {"A", "B"} and found["not_reached"] == ["C H1 float32"]
    assert all(len(r["contenders"]["graphnn"]["sweeps"]) == 1 for r in found["rows"])


def test_results_are_saved_after_each_case():
    seen = []
    Machine({"graphnn": 1.0}).run(
        ["A", "B"], SuitePlan(3, 1.0, 1), lambda f: seen.append(len(f["rows"]))
    )
    assert seen == [3, 6, 6]


def test_a_case_that_fails_to_set_up_has_a_row_with_the_reason():
    found = Machine({"graphnn": 1.0}).run(["broken", "A"], SuitePlan(3, 1.0, 1))
    assert found["rows"][0]["failed"] == {"all": "MemoryError: too large"}
    assert found["rows"][1]["case"]["network"] == "A"
    assert "failed: all: MemoryError: too large (broken H1 float32)" in table.notes(found)


def rendered(found):
    out = StringIO()
    table.show(found, Console(file=out, width=200))
    return out.getvalue()


def test_the_table_lists_absent_and_failed_contenders_and_the_model_error():
    row = fake_results.row(
        contenders={"graphnn": 1.0, "eager": fake_results.standing(2.5, ratio=2.5)}
    )
    row |= {"absent": {"haste": "not installed"}, "failed": {"torch.nn": "wrong by 1"}}
    row["expected_ms"] = 4.0
    found = fake_results.results([row])
    found["not_reached"] = ["GRU H1"]
    text = rendered(found)
    assert "2.50 (2.50x)" in text and "absent: haste: not installed" in text
    assert "failed: torch.nn: wrong by 1 (LSTM T8 B4 H16 float32)" in text
    assert "off by 4.00x in the median, 4.00x at most" in text
    assert "not reached within the budget: GRU H1" in text
    assert "limits measured in this run: copy" in text


def test_the_model_error_counts_predictions_too_high_or_too_low():
    rows = [fake_results.row(contenders={"graphnn": 2.0}, expected_ms=x) for x in (1.0, 2.0, 20.0)]
    assert model_error(fake_results.results(rows))[:2] == (2.0, 10.0)
    assert (
        model_error(fake_results.results([fake_results.row(contenders={"graphnn": 2.0})])) is None
    )


def test_a_readme_table_has_one_line_per_case(tmp_path, capsys):
    path = tmp_path / "a.json"
    results.save(fake_results.run(), path)
    assert main(["bench", "table", str(path)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 + 4
    wanted = "| LSTM | T8 B4 H16 | torch.nn | 1.0 / 1.5 (1.50x) | 3.0 / 4.5 (1.50x) |"
    assert lines[2] == wanted


def test_peak_memory_has_a_column_if_it_was_measured():
    assert "peak MB" not in rendered(fake_results.run())
    row = fake_results.row(contenders={"graphnn": fake_results.standing(1.0, peak_bytes=5e6)})
    assert "peak MB" in rendered(fake_results.results([row]))
