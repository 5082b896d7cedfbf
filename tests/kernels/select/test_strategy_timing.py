"""Strategy timing: what is timed when, and what is remembered; with a fake timer and GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from graphnn.kernels import cache
from graphnn.kernels.select import autotune, gpu_timer, race, strategy_timing
from graphnn.kernels.select.gpu_timer import Timing
from graphnn.kernels.select.strategy_timing import (
    ROWS,
    STEPS,
    Strategies,
    StrategyTuner,
    next_power_of_two,
    size_class,
)

LIKE = torch.zeros(1)
SIZES = {"time": 20, "batch": 5}


class Timer:
    """Returns times from a table, and records which strategies it timed."""

    def __init__(self, times: Mapping[str, float], failing: Sequence[str] = ()):
        self.times, self.failing, self.ran = times, failing, list[str]()
        self.host = 0.1

    def __call__(self, run: Callable[[], Any], limit: float) -> Timing:
        (way,) = run.args  # type: ignore[attr-defined]
        self.ran.append(way)
        if way in self.failing:
            raise RuntimeError("out of memory")
        return Timing(self.times.get(way, 1.0), self.host)


@pytest.fixture(autouse=True)
def made_up(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "_TEMPORARY", [])
    monkeypatch.setenv("GRAPHNN_TUNE", "all")
    monkeypatch.setattr(strategy_timing, "gpu_name", lambda tensor: "a made-up GPU")


Time = Callable[..., Timer]


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    def use(times: Mapping[str, float] | None = None, failing: Sequence[str] = ()) -> Timer:
        timer = Timer(times or {}, failing)
        monkeypatch.setattr(gpu_timer, "time_on_gpu", timer)
        return timer

    return use


def strategies(available: Callable[[str], bool] = lambda name: True) -> Strategies:
    return Strategies(["one", "two", "three"], lambda sizes: "one", available, lambda name: None)


def choose(
    chooser: StrategyTuner | None = None,
    sizes: Mapping[str, int] = SIZES,
    like: torch.Tensor = LIKE,
    direction: str = "training",
    among: Strategies | None = None,
) -> str:
    return (chooser or StrategyTuner("a loop")).choose(
        like, sizes, lambda: among or strategies(), direction
    )


def test_powers_of_two() -> None:
    assert [next_power_of_two(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


def test_size_classes() -> None:
    assert [size_class(n, ROWS) for n in (1, 5, 512, 513)] == [1, 8, 512, -512]
    assert [size_class(n, STEPS) for n in (1, 17, 256, 4000)] == [16, 64, 256, -256]


def test_long_loops_share_a_choice(time: Time) -> None:
    timer, chooser = time({"two": 0.5}), StrategyTuner("a loop", steps=["time"])
    for steps in (300, 4_000, 100_000):
        assert choose(chooser, {"time": steps, "batch": 5}) == "two"
    assert len(timer.ran) == 3
    (said,) = chooser.descriptions()
    assert "training, time above 256, batch up to 8" in said


def test_the_time_of_the_cpu_is_told_if_it_is_longer(time: Time) -> None:
    time({"two": 0.5}).host = 0.7
    chooser = StrategyTuner("a loop")
    choose(chooser)
    (said,) = chooser.descriptions()
    assert "two 0.5 ms (the CPU takes 0.7 ms to launch it), one 1 ms" in said


def test_the_first_call_times_nothing_and_each_later_call_one_strategy(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAPHNN_TUNE")
    timer, chooser = time({"two": 0.5}), StrategyTuner("a loop")
    asked: list[str] = []
    among = strategies(lambda name: asked.append(name) or True)
    assert choose(chooser, among=among) == "one" and timer.ran == asked == []
    found = [choose(chooser, among=among) for _ in range(4)]
    assert found == ["one", "one", "two", "two"] and timer.ran == ["one", "two", "three"]


def test_what_was_timed_is_continued_by_the_next_process(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GRAPHNN_TUNE")
    timer, chooser = time({"two": 0.5}), StrategyTuner("a loop")
    for _ in range(3):
        choose(chooser)
    assert timer.ran == ["one", "two"]
    later, chooser = time({"two": 0.5}), StrategyTuner("a loop")
    assert [choose(chooser) for _ in range(3)] == ["one", "two", "two"] and later.ran == ["three"]


def test_the_fastest_wins_and_is_recalled_in_a_later_process(time: Time) -> None:
    timer = time({"two": 0.5})
    assert choose() == "two" and timer.ran == ["one", "two", "three"]
    later = time()
    chooser = StrategyTuner("a loop")
    assert choose(chooser, {"time": 32, "batch": 8}) == "two" and later.ran == []
    (said,) = chooser.descriptions()
    assert said == (
        "timed on a made-up GPU (training, time up to 32, batch up to 8): "
        "two 0.5 ms, one 1 ms, three 1 ms; two is used"
    )


def test_a_signature_is_timed_once_per_process(time: Time) -> None:
    timer, chooser = time(), StrategyTuner("a loop")
    for batch in (5, 6, 8):
        choose(chooser, {"time": 20, "batch": batch})
    assert len(timer.ran) == 3


def test_other_sizes_dtypes_directions_devices_and_versions_are_timed_again(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    time()
    choose()
    changes: list[Callable[[], Any]] = [
        lambda: choose(sizes={"time": 33, "batch": 5}),
        lambda: choose(sizes={"time": 20, "batch": 9}),
        lambda: choose(like=LIKE.half()),
        lambda: choose(direction="inference"),
        lambda: choose(StrategyTuner("another loop")),
        lambda: (
            monkeypatch.setattr(strategy_timing, "gpu_name", lambda t: "another GPU") or choose()
        ),
        lambda: monkeypatch.setattr(torch, "__version__", "9.9") or choose(),
        lambda: monkeypatch.setattr(race.triton, "__version__", "9") or choose(),
    ]
    for change in changes:
        timer = time()
        change()
        assert len(timer.ran) == 3


def test_a_small_gain_does_not_change_the_choice(time: Time) -> None:
    time({"two": 0.98})
    assert choose() == "one"


def test_strategies_that_fail_are_skipped(time: Time) -> None:
    time({"three": 0.5, "two": 2.0}, failing=["one", "three"])
    assert choose() == "two"


def test_if_nothing_runs_the_default_is_used_and_fails(time: Time) -> None:
    time({}, failing=["one", "two", "three"])
    assert choose() == "one"


def test_unavailable_strategies_and_single_ones_are_not_timed(time: Time) -> None:
    timer = time({"three": 0.1})
    assert choose(among=strategies(lambda way: way != "three")) == "one"
    assert timer.ran == ["one", "two"]
    alone = time({"three": 0.1})
    assert choose(StrategyTuner("another"), among=strategies(lambda way: way == "one")) == "one"
    assert alone.ran == []


def test_a_remembered_strategy_that_is_no_longer_available_is_not_used(time: Time) -> None:
    time({"two": 0.5})
    assert choose() == "two"
    again = time({"three": 0.5})
    assert choose(among=strategies(lambda way: way != "two")) == "one"
    assert again.ran == []


def untuned(monkeypatch: pytest.MonkeyPatch) -> str:
    return choose(StrategyTuner("a loop", tuned=False))


def by_environment(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRAPHNN_TUNE", "0")
    return choose()


def deterministic(monkeypatch: pytest.MonkeyPatch) -> str:
    torch.use_deterministic_algorithms(True)
    try:
        return choose()
    finally:
        torch.use_deterministic_algorithms(False)


def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(strategy_timing, "gpu_name", lambda tensor: None)
    return choose()


def recorded(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(autotune, "is_capturing", lambda: True)
    return choose()


def empty(monkeypatch: pytest.MonkeyPatch) -> str:
    return choose(sizes={"time": 20, "batch": 0})


@pytest.mark.parametrize(
    "how", [untuned, by_environment, deterministic, without_a_gpu, recorded, empty]
)
def test_nothing_is_timed(
    how: Callable[[pytest.MonkeyPatch], str], time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = time({"two": 0.5})
    with monkeypatch.context() as patch:
        assert how(patch) == "one"
    assert timer.ran == []
    assert choose() == "two", "and nothing was remembered"


def test_the_strategy_of_a_call_that_cannot_be_timed_is_not_remembered(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    time({"two": 0.5})
    chooser = StrategyTuner("a loop")
    monkeypatch.setattr(autotune, "is_capturing", lambda: True)
    assert choose(chooser) == "one"
    monkeypatch.setattr(autotune, "is_capturing", lambda: False)
    assert choose(chooser) == "two"
