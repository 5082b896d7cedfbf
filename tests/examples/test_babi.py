"""The bAbI program: its file reader, its generated stories, its batches, and short runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import graphnn as gn
from graphnn.examples import babi
from graphnn.examples import babi_data as data

FILE = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel got the milk there.
5 What is Daniel carrying?\tmilk,apple\t4
1 Lily is a frog.
2 What color is Lily?\tgreen\t1
"""
REAL = Path(__file__).parents[2].parent / "shared/data/babi/en"


def test_files_are_read() -> None:
    first, second, third = data.read(FILE.splitlines())
    story = ("mary moved to the bathroom", "john went to the hallway")
    assert first.story == tuple(tuple(sentence.split()) for sentence in story)
    assert first.words == ("where", "is", "mary") and first.answer == "bathroom"
    assert len(second.story) == 3 and second.answer == "milk,apple"
    assert third.story == (("lily", "is", "a", "frog"),)


def test_only_the_last_sentences_are_kept() -> None:
    lines = [f"{n} Fact {n}." for n in range(1, 61)] + ["61 What?\t60\t60"]
    (question,) = data.read(lines)
    assert len(question.story) == data.MEMORY and question.story[-1] == ("fact", "60")


def answer_of(question: data.Question) -> str:
    """Returns the answer to a generated question, worked out from the sentences of its story."""
    place: dict[str, str] = {}
    holder: dict[str, str] = {}
    for sentence in question.story:
        person, verb, last = sentence[0], sentence[1], sentence[-1]
        if verb == "took":
            holder[last] = person
        elif verb == "dropped":
            holder[last] = place[person]
        else:
            place[person] = last
    words = question.words
    if words[0] == "how":
        return data.COUNTS[list(holder.values()).count(words[4])]
    if words[0] == "is":
        return "yes" if place[words[1]] == words[-1] else "no"
    thing = holder.get(words[-1], words[-1])
    return place.get(thing, thing)


@pytest.mark.parametrize("task", data.KINDS)
def test_generated_answers_follow_from_their_stories(task: int) -> None:
    questions = data.generate(task, 200, seed=0)
    assert len(questions) == 200 and questions == data.generate(task, 200, seed=0)
    assert questions != data.generate(task, 200, seed=1)
    for question in questions:
        assert question.answer == answer_of(question)
    assert len({q.answer for q in questions}) > 1


def test_batches_are_padded_with_the_null_symbol() -> None:
    questions = data.read(FILE.splitlines())
    vocabulary = data.Vocabulary(questions)
    batch = data.collate(questions, vocabulary)
    assert batch.story.shape == (3, 3, 5) and batch.count.tolist() == [2, 3, 1]
    assert batch.story[2, 1:].eq(0).all() and batch.story[2, 0, 4] == 0
    assert batch.take(torch.tensor([2, 0])).story.shape == (2, 2, 5)
    assert min(vocabulary.ids.values()) == 1


def test_padding_changes_no_answer() -> None:
    torch.manual_seed(0)
    options = babi.parser().parse_args([])
    options.width = 8
    questions = data.generate(2, 20, seed=0)
    vocabulary = data.Vocabulary(questions)
    batch = data.collate(questions, vocabulary)
    model = gn.compile(babi.Answerer(len(vocabulary), 50, options).double().eval())
    whole = babi.ask(model, batch)["scores"]
    for n in (0, 7):
        single = babi.ask(model, batch.take(torch.tensor([n])))["scores"][0]
        torch.testing.assert_close(single, whole[n], rtol=1e-12, atol=1e-12)


def test_a_short_run_prints_errors_and_attention(capsys: pytest.CaptureFixture[str]) -> None:
    babi.main(["--epochs", "1", "--restarts", "2", "--tasks", "1,6", "--seed", "1"])
    shown = capsys.readouterr().out
    for text in ("Test error in percent", "hop 3", "where is", "task 6: error", "mean"):
        assert text in shown


def test_joint_training_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task in (1, 2):
        for part in ("train", "test"):
            (tmp_path / f"qa{task}_some_{part}.txt").write_text(FILE * 10)
    more = ["--joint", "--restarts", "1", "--epochs", "2", "--width", "4", "--show", "0"]
    babi.main(["--data", str(tmp_path), "--tasks", "1-2", *more])
    shown = capsys.readouterr().out
    assert "joint" in shown and "published" in shown


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--tasks", "21"], "tasks are 1 to 20"),
        (["--tasks", "a"], "not of the form"),
        (["--tasks", "3"], "no data for task 3"),
        (["--data", "/nowhere"], "has no file qa1_"),
    ],
)
def test_bad_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        babi.main(arguments)
    assert text in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_dir(), reason="the bAbI files are not installed")
def test_the_real_files() -> None:
    train, test = data.load(REAL, 1)
    assert len(train) == len(test) == 1000
    assert train[0].answer == "bathroom" and len(train[0].story) == 2


def test_published_means() -> None:
    single, joint = (sum(v[k] for v in babi.PUBLISHED.values()) / 20 for k in (0, 1))
    assert round(single, 1) == 13.9 and round(joint, 1) == 12.4
