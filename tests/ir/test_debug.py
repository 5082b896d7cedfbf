"""GRAPHNN_DEBUG: each word prints what it names to stderr, and an unknown one is an error."""

from __future__ import annotations

import itertools

import pytest
import torch

import graphnn as gn
from graphnn.errors import GraphnnError
from tests.planner.pass_examples import KERNEL, Example, Net, elman

# of each word, what its output begins with, and lines that are in it
SHOWN = {
    "plan": ("# graphnn plan: net\n", ["loop z over time: stepwise: ", "loop z: "]),
    "ir": ("# graphnn ir: net after hoist\n", ["loop z, derived: differentiate\n", "= tanh %"]),
    "code": ("# graphnn code: z_saving\n", ["def z_backward(tensors, sizes):", "def main("]),
    "kernels": ("# graphnn kernels: ", ["@triton.jit", "tl.load("]),
}

# a kernel that is loaded already is not printed again: every test has kernels of its own
WIDTHS = itertools.count(21)


def printed(words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a compilation and a call print with GRAPHNN_DEBUG=words, to stderr."""
    monkeypatch.setenv("GRAPHNN_DEBUG", words)
    width = next(WIDTHS)
    example = Example(lambda: Net(elman, width), lambda: {"x": torch.randn(2, 3, width)}, **KERNEL)
    example.results(example.compiled())
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.parametrize("word", SHOWN)
def test_each_debug_word_prints_its_part(
    word: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(word, capsys, monkeypatch)
    begin, parts = SHOWN[word]
    assert begin in text
    for part in parts:
        assert part in text
    titles = {line.split(":")[0] for line in text.splitlines() if line.startswith("# graphnn ")}
    assert titles == {f"# graphnn {word}"}


def test_several_words_print_all_that_they_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed("plan, code", capsys, monkeypatch)
    assert "# graphnn plan: " in text and "# graphnn code: " in text
    assert "# graphnn ir: " not in text


def test_only_passes_that_change_the_graph_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed("ir", capsys, monkeypatch)
    assert "net after hoist" in text
    assert "net after factor" not in text, "no sum of products with a common factor"


def test_without_the_variable_nothing_is_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert printed("", capsys, monkeypatch) == ""


def test_an_unknown_word_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHNN_DEBUG", "plan,kernel")
    with pytest.raises(GraphnnError) as error:
        gn.compile(gn.nn.RNN(3, 4)).explain()
    assert str(error.value) == (
        "GRAPHNN_DEBUG has no word 'kernel'\n"
        "  got:    GRAPHNN_DEBUG=plan,kernel\n"
        "  wanted: words among plan, ir, code, kernels, with commas between them\n"
        "  fix:    'kernels', if that is meant"
    )
