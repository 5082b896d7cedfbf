"""The bracket checker: its graphs, its training order and its tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphnn as gn
from graphnn.examples import bracket_report, bracket_timing, brackets
from graphnn.examples.c_source import VOCABULARY, Sample

ENTRIES = {entry.name: entry for entry in brackets.ENTRIES}


@pytest.mark.parametrize("name", ENTRIES)
def test_graph_equals_eager_loop(name: str) -> None:
    torch.manual_seed(0)
    checker = ENTRIES[name].build(8).double()
    char = torch.randint(0, VOCABULARY, (3, 12))
    model = gn.compile(checker)
    torch.testing.assert_close(model(char=char), bracket_timing.eager(name, checker, char))


@pytest.mark.parametrize("name", ENTRIES)
def test_padding_changes_no_answer(name: str) -> None:
    torch.manual_seed(0)
    model = gn.compile(ENTRIES[name].build(8).double())
    char = torch.randint(1, VOCABULARY, (2, 9))
    padded = torch.cat([char, torch.randint(1, VOCABULARY, (2, 4))], 1)
    ragged = model(char=padded, lengths={"time": torch.tensor([9, 9])})
    torch.testing.assert_close(ragged, model(char=char))


def test_turtles_return_after_opposite_moves() -> None:
    """With all gates open, a move and its opposite restore heading and position."""
    torch.manual_seed(0)
    checker = brackets.Turtles(8, 3).double()
    with torch.no_grad():
        checker.steer.weight.zero_()
        checker.embed.weight[2:4] = torch.randn(2, brackets.EMBEDDED)
        checker.embed.weight[4:6] = -checker.embed.weight[2:4]
        checker.turn.weight.mul_(50)
        checker.stride.weight.mul_(50)

    def away(*chars: int) -> torch.Tensor:
        embedded = checker.embed(torch.tensor([chars]))
        return bracket_timing.turtles_loop(checker, embedded)[0, 4:13]

    home = torch.tensor([1.0] * 3 + [0.0] * 6).double()
    torch.testing.assert_close(away(2, 3, 5, 4), home)
    assert (away(2, 3, 4, 5) - home).abs().max() > 1e-3
    assert (away(2, 3, 5) - home).abs().max() > 1e-3


def samples(count: int) -> list[Sample]:
    return [
        Sample("(" + "a" * n + ")" * (n % 2), n % 2 == 1, 1 + n % 5, 1 + n)
        for n in range(1, 1 + count)
    ]


def test_curriculum_goes_from_short_to_long_texts() -> None:
    course = brackets.Course(samples(100), 8, seed=0)
    early = [int(course.batch(0.0).length.max()) for _ in range(20)]
    late = [int(course.batch(1.0).length.max()) for _ in range(20)]
    assert max(early) <= 20 and max(late) > 60
    again = brackets.Course(samples(100), 8, seed=0)
    assert early == [int(again.batch(0.0).length.max()) for _ in range(20)]


def test_bucket_table_counts_every_sample_once() -> None:
    n = torch.arange(40)
    answers = bracket_report.Answers(n % 4 > 0, n % 2 == 0, n + 1, 1 + n % 6)
    for key, edges in (("distance", bracket_report.DISTANCES), ("depth", bracket_report.DEPTHS)):
        table = bracket_report.bucket_table({"some": answers}, key, edges)
        counts = list(table.columns[1].cells)
        assert sum(map(int, map(str, counts))) == 40


def test_bars_fall_with_the_norm() -> None:
    bars = bracket_report._bars(torch.logspace(-12, 0, 100), top=0.0)
    assert len(bars) == 40 and bars[0] == "▁" and bars[-1] == "█"
    heights = [bracket_report.BARS.index(bar) for bar in bars]
    assert heights == sorted(heights)
    assert set(bracket_report._bars(torch.zeros(5), top=0.0)) == {"▁"}


def test_a_short_run_prints_all_tables(capsys: pytest.CaptureFixture[str]) -> None:
    brackets.main(
        ["--steps", "3", "--samples", "200", "--hidden", "8", "--length", "40", "--seed", "1"]
    )
    shown = capsys.readouterr().out
    for title in ("Held-out files", "by distance", "by depth", "Gradient", "Forward and backward"):
        assert title in shown
    for entry in brackets.ENTRIES:
        assert entry.name in shown


def test_an_empty_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        brackets.main(["--data", str(tmp_path)])
    assert "found 0 C files" in capsys.readouterr().err
