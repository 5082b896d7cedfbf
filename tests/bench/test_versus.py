"""Comparing two runs: no alarm on noise, none of a slower machine, and a planted slowdown seen."""

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
from tests.timing import made


def drawn(seed, factor=1.0, noise=0.06, cases=40):
    """A run whose every round is drawn: the clocks of two runs of the same code."""
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
        rows.append(made.row("LSTM", "forward", standing(sweeps, "graphnn"), sizes))
    return made.results(rows)


@pytest.mark.parametrize("seed", range(10))
def test_two_runs_of_the_same_code_raise_no_alarm(seed):
    found = versus(drawn(seed), drawn(1000 + seed))
    assert len(found.changes) == 120
    assert [c for c in found.changes if c.verdict != WITHIN] == []
    assert summary(found).startswith("no significant change of graphnn")


@pytest.mark.parametrize("seed", range(10))
def test_a_planted_slowdown_is_seen(seed):
    found = versus(drawn(seed), drawn(1000 + seed, factor=1.5))
    assert len(found.slower) >= 38  # of 40: a few of the draws lie far out
    assert {c.verdict for c in found.changes if c.contender != "graphnn"} == {WITHIN}


def test_a_speedup_is_seen_and_is_not_called_a_slowdown():
    found = versus(made.run(), made.run(ours=0.5))
    assert {c.verdict for c in found.changes if c.contender == "graphnn"} == {FASTER}
    assert found.slower == [] and "faster (0.50x)" in summary(found)


def test_a_slower_machine_is_told_and_is_no_change_of_ours():
    found = versus(made.run(), made.run(scale=1.6))
    assert found.drift == pytest.approx(1.6)
    assert {c.verdict for c in found.changes if c.contender == "graphnn"} == {WITHIN}
    assert "took 1.60x the time" in summary(found)


def test_on_a_slower_machine_a_slowdown_of_ours_is_seen_still():
    found = versus(made.run(), made.run(scale=1.3, ours=1.5))
    assert len(found.slower) == 8


def test_ours_standing_still_while_the_machine_slows_is_no_change():
    """Faster by the peers' measure, equal by the clock: not both, so nothing is claimed."""
    found = versus(made.run(), made.run(scale=1.5, ours=1 / 1.5))
    assert {c.verdict for c in found.changes if c.contender == "graphnn"} == {WITHIN}


def test_best_rounds_far_apart_are_noise_and_slow_rounds_are_not():
    standing = {**made.standing(10.0, 0.0), "best": 8.0, "sweeps": [8.0], "high": 90.0}
    assert spread(standing) == pytest.approx(1.5 * 0.25)
    assert spread({**standing, "sweeps": [8.0, 12.0]}) == pytest.approx(1.5 * 0.5)
    assert spread(made.standing(10.0, 0.0)) == 0.1
    noisy = versus(made.run(spread=0.5), made.run(ours=1.5, spread=0.5))
    assert noisy.slower == []


def preempted(seed, factor=1.0):
    """A machine that is taken away in the middle of half of the rounds, for several ms."""
    generator = random.Random(seed)
    rows = []
    for k in range(30):
        taken = lambda: generator.choice([0.0, 0.0, 5e-3, 9e-3]) * generator.random()
        sweeps = [
            {
                name: [base * 1e-3 * generator.gauss(1.0, 0.02) + taken() for _ in range(11)]
                for name, base in (("graphnn", 2.0 * factor), ("eager", 4.0), ("torch.nn", 3.0))
            }
            for _ in range(2)
        ]
        sizes = {"T": 8, "B": 4, "H": k + 1}
        rows.append(made.row("LSTM", "forward", standing(sweeps, "graphnn"), sizes))
    return made.results(rows)


@pytest.mark.parametrize("seed", range(5))
def test_a_machine_that_is_busy_raises_no_alarm_and_hides_no_slowdown(seed):
    same = versus(preempted(seed), preempted(100 + seed))
    assert [c for c in same.changes if c.verdict != WITHIN] == []
    assert max(c.ratio for c in same.changes) > 1.3  # medians alone would have raised one
    slower = versus(preempted(seed), preempted(100 + seed, factor=1.5))
    assert len(slower.slower) >= 29
    assert {c.verdict for c in slower.changes if c.contender != "graphnn"} == {WITHIN}


def test_what_was_timed_once_is_never_a_change():
    once = [made.row(contenders={"graphnn": made.standing(m, rounds=1)}) for m in (1.0, 9.0)]
    found = versus(made.results(once[:1]), made.results(once[1:]))
    assert found.changes[0].verdict == WITHIN and math.isinf(found.changes[0].noise)


def test_what_was_interrupted_in_every_round_is_never_a_change():
    always = {"graphnn": made.standing(9.0, clean=0)}
    once = {"graphnn": made.standing(9.0, clean=1)}
    first = made.results([made.row(contenders={"graphnn": made.standing(1.0, clean=15)})])
    for contenders, verdict in ((always, WITHIN), (once, "slower")):
        found = versus(first, made.results([made.row(contenders=contenders)]))
        assert found.changes[0].verdict == verdict
        silent = "1 of 1 timings of graphnn were not judged" in summary(found)
        assert silent == (verdict == WITHIN)
        back = versus(made.results([made.row(contenders=contenders)]), first)
        assert (back.changes[0].verdict == WITHIN) == (verdict == WITHIN)


def test_other_devices_versions_and_cases_are_warned_of():
    first, second = made.run(), made.run()
    second["about"]["torch"] = "2.1"
    second["rows"].pop()
    warnings = versus(first, second).warnings
    assert warnings[0] == "torch differs: 2.0 / 2.1"
    assert warnings[1].startswith("not in the second file: LSTM T8 B4 H128")


def test_the_table_has_every_ratio_and_says_which_are_significant():
    out = StringIO()
    first, second = made.run(), made.run(ours=2.0)
    show(versus(first, second), first, second, Console(file=out, width=200))
    text = out.getvalue()
    assert text.count("2.00x") >= 8 and text.count("slower") >= 8 and "within noise" in text


def files(tmp_path, *runs):
    paths = [str(tmp_path / f"{k}.json") for k in range(len(runs))]
    for found, path in zip(runs, paths):
        results.save(found, path)
    return paths


def test_the_command_and_its_exit_codes(tmp_path, capsys):
    same = files(tmp_path, made.run(), made.run())
    assert main(["bench", "compare", *same, "--check"]) == 0
    assert "no significant change" in capsys.readouterr().out
    slower = files(tmp_path, made.run(), made.run(ours=1.5))
    assert main(["bench", "compare", *slower]) == 0
    assert main(["bench", "compare", *slower, "--check"]) == 1
    capsys.readouterr()
    assert main(["bench", "compare", *slower, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["verdict"] for c in found["changes"] if c["contender"] == "graphnn"} == {"slower"}


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "No such file"), ("{", "not JSON"), ("[]", "schema"), ('{"schema": 1}', "no 'about'")],
)
def test_a_file_that_has_no_results_is_refused_in_one_line(tmp_path, capsys, content, word):
    good = files(tmp_path, made.run())[0]
    bad = tmp_path / "bad.json"
    if content is not None:
        bad.write_text(content)
    assert main(["bench", "compare", good, str(bad)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and word in error and "bad.json" in error


def test_files_without_a_case_in_common_are_refused(tmp_path, capsys):
    other = made.results([made.row("GRU", contenders={"graphnn": 1.0})])
    assert main(["bench", "compare", *files(tmp_path, made.run(), other)]) == 2
    assert "no case in common" in capsys.readouterr().err


def test_results_survive_a_file(tmp_path):
    path = tmp_path / "a.json"
    results.save(made.run(), path)
    assert results.load(path) == made.run()
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(TimingError, match="cannot be written"):
        results.save(made.run(), tmp_path / "no" / "a.json")
