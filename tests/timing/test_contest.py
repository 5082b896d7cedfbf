"""Contests with a scripted clock: rejected and absent contenders, rounds, sweeps and summaries."""

import math
import threading
import time

import pytest
import torch

from graphnn.timing.clock import rounds, summary
from graphnn.timing.contest import (
    BOTH,
    FORWARD,
    Contest,
    Patience,
    error,
    leaves,
    patience,
    results,
    standing,
    time_runs,
)

X = torch.arange(6.0).requires_grad_()


class ScriptedClock:
    """A fake clock: run `name` takes the seconds in `script[name]`, in turn and repeatedly."""

    def __init__(self, script):
        self.script = {k: list(v) for k, v in script.items()}
        self.order = []

    def runs(self):
        return {name: (lambda name=name: name) for name in self.script}

    def __call__(self, run):
        name = run()
        self.order.append(name)
        times = self.script[name]
        times.append(times.pop(0))
        return times[-1]


def one_second(run):
    run()
    return 1.0


def contest(runs, **more):
    return Contest("test", runs, **{"wanted": [X], **more})


def test_rounds_are_interleaved_and_warmup_is_not_counted():
    clock = ScriptedClock({"a": [100.0, 1.0, 2.0, 3.0], "b": [200.0, 4.0, 5.0, 6.0]})
    found = rounds(clock.runs(), 3, clock, warm=1)
    assert clock.order == ["a", "b"] * 4
    assert found == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}


def test_interrupted_rounds_are_marked_and_clean_rounds_counted(monkeypatch):
    counts = iter(
        [0, 0, 0, 2, 2, 2]
    )  # read before and after each round; only the second is interrupted
    monkeypatch.setattr("graphnn.timing.clock.interruptions", lambda: next(counts))
    clock = ScriptedClock({"a": [1.0, 2.0, 3.0]})
    found = rounds(clock.runs(), 3, clock, warm=0)
    assert [s.interrupted for s in found["a"]] == [False, True, False]
    assert standing([found], "a")["a"]["clean"] == 2


def test_a_summary_has_best_median_and_quartiles_in_ms():
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {
        "best": 1000,
        "low": 2000,
        "median": 3000,
        "high": 4000,
    }
    assert set(summary([0.5]).values()) == {500}


@pytest.mark.parametrize(("spend", "count"), [(0.1, 3), (40.0, 4), (1e6, 9)])
def test_the_time_budget_limits_rounds_but_at_least_three_run(spend, count):
    clock = ScriptedClock({"a": [3.0], "b": [7.0]})
    assert len(time_runs(clock.runs(), clock, 9, spend)["a"]) == count


def test_a_ratio_is_the_median_of_per_round_ratios():
    sweeps = [{"ours": [1.0, 2.0, 4.0], "peer": [2.0, 6.0, 4.0]}]
    found = standing(sweeps, "ours")
    assert found["peer"]["ratio"] == 2.0 and found["ours"]["ratio"] == 1.0
    assert found["peer"]["rounds"] == 3


def test_the_best_of_each_sweep_is_kept_and_the_median_covers_all_sweeps():
    found = standing([{"a": [1.0, 1.0]}, {"a": [3.0, 4.0]}], "a")
    assert found["a"]["sweeps"] == [1000, 3000] and found["a"]["median"] == 2000


def test_a_contender_with_a_wrong_result_is_not_timed():
    made = contest({"right": lambda: X * 2, "wrong": lambda: X * 2.1})
    made.check(one_second)
    assert made.failed["wrong"].startswith("wrong by ") and set(made.runs) == {"right"}
    assert set(made.passes()[FORWARD]) == set(made.passes()[BOTH]) == {"right"}


def test_a_contender_with_a_wrong_gradient_is_not_timed():
    made = contest({"right": lambda: X * 2, "wrong": lambda: X.detach() * 2 + 0 * X})
    made.check(one_second)
    assert "wrong" in made.failed and set(made.runs) == {"right"}


def test_nan_wrong_shapes_and_exceptions_fail_with_a_reason():
    def fails():
        raise RuntimeError("no such kernel")

    runs = {
        "right": lambda: X * 2,
        "nan": lambda: X * float("nan"),
        "narrow": lambda: X[:3] * 2,
        "fails": fails,
    }
    made = contest(runs)
    made.check(one_second)
    assert set(made.runs) == {"right"}
    assert made.failed["nan"].startswith("wrong by nan")
    assert "shapes" in made.failed["narrow"]
    assert made.failed["fails"] == "RuntimeError: no such kernel"


def test_the_expected_results_can_be_given_explicitly():
    right = lambda: [torch.full((6,), 7.0), torch.zeros(6)]
    made = contest({"first": lambda: X * 2, "second": lambda: X * 0 + 7}, right=right)
    made.check(one_second)
    assert set(made.runs) == {"second"}


def test_low_precision_may_err_at_most_twice_as_much_as_its_baseline():
    exact = [torch.ones(6), torch.zeros(6)]
    off = {"near": 1.07, "eager": 1.04, "far": 1.09}
    runs = {name: (lambda value=value: X * 0 + value) for name, value in off.items()}
    made = contest(runs, right=lambda: exact, baseline="eager", dtype="bfloat16")
    made.check(one_second)
    assert set(made.failed) == {"far"}
    made = contest(runs, right=lambda: exact, baseline="eager", dtype="float16")
    made.check(one_second)  # a baseline with wrong results does not loosen the tolerance
    assert set(made.failed) == {"near", "eager", "far"}


def test_a_contender_that_exceeds_the_compile_timeout_is_absent_not_failed():
    def forever():
        while True:
            time.sleep(0.01)

    made = contest(
        {"right": lambda: X * 2, "slow": forever}, slow=frozenset({"slow"}), patience=0.05
    )
    made.check(one_second)
    assert made.absent == {"slow": "not compiled within 0.05 s"} and not made.failed


def test_the_timeout_passes_through_except_exception_and_clears_its_alarm():
    def stubborn():
        try:
            time.sleep(5)
        except Exception:
            time.sleep(5)

    with pytest.raises(Patience), patience(0.05):
        stubborn()
    with patience(0.05):
        pass
    time.sleep(0.1)


def test_the_timeout_has_no_effect_outside_the_main_thread():
    done = []

    def work():
        with patience(0.001):
            time.sleep(0.02)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_extra_leaves_are_differentiated_but_not_compared():
    a, b = torch.ones(6, requires_grad=True), torch.full((6,), 2.0, requires_grad=True)
    runs = {"a": lambda: X * a * 2, "b": lambda: X * b}
    made = contest(runs, extra_leaves={"a": [a], "b": [b]})
    made.check(one_second)
    assert made.failed == {}
    assert [len(run()) for run in made.passes()[BOTH].values()] == [2, 2]


def test_leaves_finds_tensors_in_nested_results():
    t = torch.ones(2)
    assert len(leaves((t, (t, t)))) == 3 and len(leaves({"a": t, "b": [t]})) == 2
    assert leaves(None) == [] and leaves(3) == []


def test_error_is_the_largest_relative_error_of_all_results():
    assert error([torch.tensor([1.1]), torch.tensor([2.0])], [torch.ones(1), torch.full((1,), 2.0)])
    assert error([], []) == 0.0
    assert math.isnan(error([torch.tensor([float("nan")])], [torch.ones(1)]))
    with pytest.raises(ValueError, match="shapes"):
        error([torch.ones(2)], [torch.ones(3)])


def test_an_unused_input_has_a_zero_gradient():
    y = torch.ones(3, requires_grad=True)
    found = results(lambda: X * 2, [X, y])
    assert torch.equal(found[2], torch.zeros(3)) and found[1].abs().sum() > 0
