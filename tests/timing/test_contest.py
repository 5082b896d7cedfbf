"""Contests: who is refused a time, who is absent, and what is made of made-up clocks."""

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


class Planted:
    """A clock that says what each run takes: `script[name]` seconds, again and again."""

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


def test_rounds_are_interleaved_and_warming_up_is_not_counted():
    clock = Planted({"a": [100.0, 1.0, 2.0, 3.0], "b": [200.0, 4.0, 5.0, 6.0]})
    found = rounds(clock.runs(), 3, clock, warm=1)
    assert clock.order == ["a", "b"] * 4
    assert found == {"a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}


def test_rounds_that_the_system_interrupted_are_counted(monkeypatch):
    counts = iter([0, 0, 0, 2, 2, 2])  # before and after each of three rounds: the second was
    monkeypatch.setattr("graphnn.timing.clock.interruptions", lambda: next(counts))
    clock = Planted({"a": [1.0, 2.0, 3.0]})
    found = rounds(clock.runs(), 3, clock, warm=0)
    assert [s.interrupted for s in found["a"]] == [False, True, False]
    assert standing([found], "a")["a"]["clean"] == 2


def test_a_summary_is_median_and_quartiles_in_ms():
    assert summary([1.0, 2.0, 3.0, 4.0, 5.0]) == {
        "best": 1000,
        "low": 2000,
        "median": 3000,
        "high": 4000,
    }
    assert set(summary([0.5]).values()) == {500}


@pytest.mark.parametrize(("spend", "count"), [(0.1, 3), (40.0, 4), (1e6, 9)])
def test_as_many_rounds_as_the_time_allows_three_at_least(spend, count):
    clock = Planted({"a": [3.0], "b": [7.0]})
    assert len(time_runs(clock.runs(), clock, 9, spend)["a"]) == count


def test_ratios_are_medians_over_rounds_not_ratios_of_medians():
    sweeps = [{"ours": [1.0, 2.0, 4.0], "peer": [2.0, 6.0, 4.0]}]
    found = standing(sweeps, "ours")
    assert found["peer"]["ratio"] == 2.0 and found["ours"]["ratio"] == 1.0
    assert found["peer"]["rounds"] == 3


def test_sweeps_are_put_together_and_each_keeps_its_best():
    found = standing([{"a": [1.0, 1.0]}, {"a": [3.0, 4.0]}], "a")
    assert found["a"]["sweeps"] == [1000, 3000] and found["a"]["median"] == 2000


def test_a_wrong_result_is_refused_a_time():
    made = contest({"right": lambda: X * 2, "wrong": lambda: X * 2.1})
    made.check(one_second)
    assert made.failed["wrong"].startswith("wrong by ") and set(made.runs) == {"right"}
    assert set(made.passes()[FORWARD]) == set(made.passes()[BOTH]) == {"right"}


def test_a_wrong_gradient_is_refused_a_time():
    made = contest({"right": lambda: X * 2, "wrong": lambda: X.detach() * 2 + 0 * X})
    made.check(one_second)
    assert "wrong" in made.failed and set(made.runs) == {"right"}


def test_nan_and_another_shape_are_wrong_and_a_failure_is_told():
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


def test_what_is_right_may_come_from_elsewhere():
    right = lambda: [torch.full((6,), 7.0), torch.zeros(6)]
    made = contest({"first": lambda: X * 2, "second": lambda: X * 0 + 7}, right=right)
    made.check(one_second)
    assert set(made.runs) == {"second"}


def test_a_lower_precision_is_held_to_twice_the_errors_of_its_baseline():
    exact = [torch.ones(6), torch.zeros(6)]
    off = {"near": 1.07, "eager": 1.04, "far": 1.09}
    runs = {name: (lambda value=value: X * 0 + value) for name, value in off.items()}
    made = contest(runs, right=lambda: exact, baseline="eager", dtype="bfloat16")
    made.check(one_second)
    assert set(made.failed) == {"far"}
    made = contest(runs, right=lambda: exact, baseline="eager", dtype="float16")
    made.check(one_second)  # a baseline that is wrong itself lets nobody pass
    assert set(made.failed) == {"near", "eager", "far"}


def test_one_that_does_not_compile_in_time_is_absent_not_failed():
    def forever():
        while True:
            time.sleep(0.01)

    made = contest(
        {"right": lambda: X * 2, "slow": forever}, slow=frozenset({"slow"}), patience=0.05
    )
    made.check(one_second)
    assert made.absent == {"slow": "not compiled within 0.05 s"} and not made.failed


def test_patience_is_not_swallowed_and_leaves_no_alarm_behind():
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


def test_patience_does_nothing_in_another_thread():
    done = []

    def work():
        with patience(0.001):
            time.sleep(0.02)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_own_parameters_are_differentiated_and_not_compared():
    a, b = torch.ones(6, requires_grad=True), torch.full((6,), 2.0, requires_grad=True)
    runs = {"a": lambda: X * a * 2, "b": lambda: X * b}
    made = contest(runs, extra_leaves={"a": [a], "b": [b]})
    made.check(one_second)
    assert made.failed == {}
    assert [len(run()) for run in made.passes()[BOTH].values()] == [2, 2]


def test_leaves_in_whatever_is_returned():
    t = torch.ones(2)
    assert len(leaves((t, (t, t)))) == 3 and len(leaves({"a": t, "b": [t]})) == 2
    assert leaves(None) == [] and leaves(3) == []


def test_errors_are_relative_to_each_result_and_the_largest_counts():
    assert error([torch.tensor([1.1]), torch.tensor([2.0])], [torch.ones(1), torch.full((1,), 2.0)])
    assert error([], []) == 0.0
    assert math.isnan(error([torch.tensor([float("nan")])], [torch.ones(1)]))
    with pytest.raises(ValueError, match="shapes"):
        error([torch.ones(2)], [torch.ones(3)])


def test_an_unused_input_has_a_zero_gradient():
    y = torch.ones(3, requires_grad=True)
    found = results(lambda: X * 2, [X, y])
    assert torch.equal(found[2], torch.zeros(3)) and found[1].abs().sum() > 0
