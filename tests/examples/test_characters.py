"""The character model: its loss, its streamed writing, and a short run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import graphnn as gn
from graphnn.examples import characters

SMALL = ["--width", "16", "--heads", "2", "--layers", "2", "--length", "8", "--window", "8"]


def small(*more: str) -> tuple[gn.Compiled, object]:
    torch.manual_seed(0)
    options = characters.parser().parse_args([*SMALL, *more])
    return gn.compile(characters.Writer(5, options)), options


def test_at_first_it_knows_nothing() -> None:
    model, _ = small()
    text = torch.randint(5, (4, 9))
    assert abs(characters.loss_of(model, text).item() - math.log(5)) < 0.1


def test_writing_by_steps_is_writing_by_sequences() -> None:
    """Nearly cold, each character is the best of the whole-sequence call, beyond the window too."""
    model, _ = small()
    start = torch.tensor([0, 3, 1])
    written = characters.sample(model, start, 12, warmth=1e-6)
    text = start.tolist()
    model.eval()
    for number in written:
        assert int(model(char=torch.tensor([text]))[0, -1].argmax()) == number
        text.append(number)


def test_text_is_held_out_and_written_back() -> None:
    text = characters.Text("abcab" * 20)
    assert len(text.train) == 90 and len(text.held) == 10
    assert text.write(text.held.tolist()) == "abcab" * 2


def test_a_short_run_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be, that is the question.\n" * 600)
    more = ["--epochs", "0.01", "--sample", "5", "--threads", "1", "--batch", "4"]
    characters.main(["--data", str(file), *SMALL, *more])
    shown = capsys.readouterr().out
    assert "nats a character" in shown and "steps, after" in shown


def test_text_is_found_installed() -> None:
    assert len(characters.load(None)) > 100_000


def test_too_short_a_text_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "short.txt"
    file.write_text("short")
    with pytest.raises(SystemExit):
        characters.main(["--data", str(file)])
    assert "has 5 characters" in capsys.readouterr().err
