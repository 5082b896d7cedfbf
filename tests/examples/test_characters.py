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


def test_an_untrained_model_has_the_loss_of_guessing() -> None:
    model, _ = small()
    text = torch.randint(5, (4, 9))
    assert abs(characters.loss_of(model, text).item() - math.log(5)) < 0.1


def test_writing_by_steps_equals_whole_sequence_calls() -> None:
    """Near temperature 0 each step writes the argmax of a whole call, also beyond the window."""
    model, _ = small()
    start = torch.tensor([0, 3, 1])
    written = characters.sample(model, start, 12, temperature=1e-6)
    text = start.tolist()
    model.eval()
    for number in written:
        assert int(model(char=torch.tensor([text]))[0, -1].argmax()) == number
        text.append(number)


def test_text_is_split_and_decoded() -> None:
    text = characters.Text("abcab" * 20)
    assert len(text.train) == 90 and len(text.held_out) == 10
    assert text.decode(text.held_out.tolist()) == "abcab" * 2


def test_a_short_run_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be, that is the question.\n" * 600)
    more = ["--epochs", "0.01", "--sample", "5", "--threads", "1", "--batch", "4"]
    characters.main(["--data", str(file), *SMALL, *more])
    shown = capsys.readouterr().out
    assert "nats per character" in shown and "steps, after" in shown


def test_the_default_text_is_installed() -> None:
    assert len(characters.load(None)) > 100_000


def test_too_short_a_text_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "short.txt"
    file.write_text("short")
    with pytest.raises(SystemExit):
        characters.main(["--data", str(file)])
    assert "has 5 characters" in capsys.readouterr().err
