"""Comparisons of two runs: noise and slower machines raise no alarm, real slowdowns do."""

import json
import math
import random
from io import StringIO

import pytest
from rich.console import Console

from graphnn.bench.versus import FASTER, WITHIN, show, spread, summary, versus
from graphnn.cli import main
from graphnn.errors import TimingError
from graphnn.timing import results
from graphnn.timing.contest import standing
from tests.timing import fake_results


def random_run(seed, factor=1.0, noise=0.06, cases=40):
    """Returns results with random times, as two runs of the same code would give."""
    generator = random.Random(seed)
    rows = []
    for k in range(cases):
        sweeps = []
        for _ in range(2):
            drift = generator.gauss(1.0, noise / 2)
            sweep = {
                name: [
                    base * drift * max(0.5, generator.gauss(1.0, noise)) * 1e-3 for _ in range(11)
                ]
                for name, base in (("graphnn", 2.0 * factor), ("eager", 4.0), ("torch.nn", 3.0))
            }
            sweeps.append(sweep)
        sizes = {"T": 8, "B": 4, "H": k + 1}
        rows.append(fake_results.row("LSTM", "forward", standing(sweeps, "graphnn"), sizes))
    return fake_results.results(rows)


@pytest.mark.parametrize("seed", range(10))
def test_two_runs_of_the_same_code_raise_no_alarm(seed):
    result = versus(random_run(seed), random_run(1000 + seed))
    assert len(result.changes) == 120
    assert [c for c in result.changes if c.verdict != WITHIN] == []
    assert summary(result).startswith("no significant change of graphnn")


@pytest.mark.parametrize("seed", range(10))
def test_a_slowdown_is_detected(seed):
    result = versus(random_run(seed), random_run(1000 + seed, factor=1.5))
    assert len(result.slower) >= 38  # of 40: a few of the draws are outliers
    assert {c.verdict for c in result.changes if c.contender != "graphnn"} == {WITHIN}


def test_a_speedup_is_detected():
    result = versus(fake_results.run(), fake_results.run(ours=0.5))
    assert {c.verdict for c in result.changes if c.contender == "graphnn"} == {FASTER}
    assert result.slower == [] and "faster (0.50x)" in summary(result)


def test_a_slower_machine_is_reported_and_is_not_a_change():
    result = versus(fake_results.run(), fake_results.run(scale=1.6))
    assert result.drift == pytest.approx(1.6)
    assert {c.verdict for c in result.changes if c.contender == "graphnn"} == {WITHIN}
    assert "took 1.60x the time" in summary(result)


def test_a_slowdown_on_a_slower_machine_is_detected():
    result = versus(fake_results.run(), fake_results.run(scale=1.3, ours=1.5))
    assert len(result.slower) == 8


def test_equal_times_on_a_slower_machine_are_not_a_change():
    """graphnn is faster relative to its peers but equal by the clock, so no change is reported."""
    result = versus(fake_results.run(), fake_results.run(scale=1.5, ours=1 / 1.5))
    assert {c.verdict for c in result.changes if c.contender == "graphnn"} == {WITHIN}


def test_noise_is_the_spread_of_the_best_rounds():
    standing = {**fake_results.standing(10.0, 0.0), "best": 8.0, "sweeps": [8.0], "high": 90.0}
    assert spread(standing) == pytest.approx(1.5 * 0.25)
    assert spread({**standing, "sweeps": [8.0, 12.0]}) == pytest.approx(1.5 * 0.5)
    assert spread(fake_results.standing(10.0, 0.0)) == 0.1
    noisy = versus(fake_results.run(spread=0.5), fake_results.run(ours=1.5, spread=0.5))
    assert noisy.slower == []


def preempted_run(seed, factor=1.0):
    """Returns results of a machine that is preempted for several ms in half of the rounds."""
    generator = random.Random(seed)
    rows = []
    for k in range(30):
        pause = lambda: generator.choice([0.0, 0.0, 5e-3, 9e-3]) * generator.random()
        sweeps = [
            {
                name: [base * 1e-3 * generator.gauss(1.0, 0.02) + pause() for _ in range(11)]
                for name, base in (("graphnn", 2.0 * factor), ("eager", 4.0), ("torch.nn", 3.0))
            }
            for _ in range(2)
        ]
        sizes = {"T": 8, "B": 4, "H": k + 1}
        rows.append(fake_results.row("LSTM", "forward", standing(sweeps, "graphnn"), sizes))
    return fake_results.results(rows)


@pytest.mark.parametrize("seed", range(5))
def test_a_busy_machine_raises_no_alarm_and_hides_no_slowdown(seed):
    same = versus(preempted_run(seed), preempted_run(100 + seed))
    assert [c for c in same.changes if c.verdict != WITHIN] == []
    assert max(c.ratio for c in same.changes) > 1.3  # the medians would have raised an alarm
    slower = versus(preempted_run(seed), preempted_run(100 + seed, factor=1.5))
    assert len(slower.slower) >= 29
    assert {c.verdict for c in slower.changes if c.contender != "graphnn"} == {WITHIN}


def test_a_single_round_is_never_a_change():
    once = [
        fake_results.row(contenders={"graphnn": fake_results.standing(m, rounds=1)})
        for m in (1.0, 9.0)
    ]
    result = versus(fake_results.results(once[:1]), fake_results.results(once[1:]))
    assert result.changes[0].verdict == WITHIN and math.isinf(result.changes[0].noise)


def test_times_with_only_interrupted_rounds_are_never_a_change():
    no_clean = {"graphnn": fake_results.standing(9.0, clean=0)}
    one_clean = {"graphnn": fake_results.standing(9.0, clean=1)}
    first = fake_results.results(
        [fake_results.row(contenders={"graphnn": fake_results.standing(1.0, clean=15)})]
    )
    for contenders, verdict in ((no_clean, WITHIN), (one_clean, "slower")):
        result = versus(first, fake_results.results([fake_results.row(contenders=contenders)]))
        assert result.changes[0].verdict == verdict
        unjudged = "1 of 1 timings of graphnn were not judged" in summary(result)
        assert unjudged == (verdict == WITHIN)
        back = versus(fake_results.results([fake_results.row(contenders=contenders)]), first)
        assert (back.changes[0].verdict == WITHIN) == (verdict == WITHIN)


def test_differences_of_device_versions_and_cases_are_warnings():
    first, second = fake_results.run(), fake_results.run()
    second["about"]["torch"] = "2.1"
    second["rows"].pop()
    warnings = versus(first, second).warnings
    assert warnings[0] == "torch differs: 2.0 / 2.1"
    assert warnings[1].startswith("not in the second file: LSTM T8 B4 H128")


def test_the_table_shows_ratios_and_significance():
    out = StringIO()
    first, second = fake_results.run(), fake_results.run(ours=2.0)
    show(versus(first, second), first, second, Console(file=out, width=200))
    text = out.getvalue()
    assert text.count("2.00x") >= 8 and text.count("slower") >= 8 and "within noise" in text


def files(tmp_path, *runs):
    paths = [str(tmp_path / f"{k}.json") for k in range(len(runs))]
    for result, path in zip(runs, paths):
        results.save(result, path)
    return paths


def test_the_command_and_its_exit_codes(tmp_path, capsys):
    same = files(tmp_path, fake_results.run(), fake_results.run())
    assert main(["bench", "compare", *same, "--check"]) == 0
    assert "no significant change" in capsys.readouterr().out
    slower = files(tmp_path, fake_results.run(), fake_results.run(ours=1.5))
    assert main(["bench", "compare", *slower]) == 0
    assert main(["bench", "compare", *slower, "--check"]) == 1
    capsys.readouterr()
    assert main(["bench", "compare", *slower, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert {c["verdict"] for c in result["changes"] if c["contender"] == "graphnn"} == {"slower"}


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "No such file"), ("{", "not JSON"), ("[]", "schema"), ('{"schema": 1}', "no 'about'")],
)
def test_a_file_without_results_is_an_error_of_one_line(tmp_path, capsys, content, word):
    good = files(tmp_path, fake_results.run())[0]
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    assert main(["bench", "compare", good, str(bad)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and word in error and "bad.json" in error


def test_files_without_a_common_case_are_an_error(tmp_path, capsys):
    other = fake_results.results([fake_results.row("GRU", contenders={"graphnn": 1.0})])
    assert main(["bench", "compare", *files(tmp_path, fake_results.run(), other)]) == 2
    assert "no case in common" in capsys.readouterr().err


def test_results_round_trip_through_a_file(tmp_path):
    path = tmp_path / "a.json"
    results.save(fake_results.run(), path)
    assert results.load(path) == fake_results.run()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(TimingError, match="cannot be written"):
        results.save(fake_results.run(), tmp_path / "no" / "a.json")
