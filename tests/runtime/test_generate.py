"""Generation: the closed loop against teacher forcing, beam search against exhaustive search."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

import graphnn as gn
from graphnn.errors import GenerateError, GraphError

WORDS, STOP = 5, 2
SOURCE = torch.tensor([[3, 1, 4, 0], [2, 2, 0, 0], [4, 3, 1, 1]])
LENGTHS = {"source": torch.tensor([4, 2, 3])}
NETS: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 2, "reverse": True},
    "additive": {"attention": "additive", "bidirectional": True},
    "dot": {"attention": "dot", "cell": "gru", "num_layers": 2},
}


def translator(name: str = "additive", backend: str = "auto") -> gn.Compiled:
    torch.manual_seed(4)
    net = gn.nn.Seq2Seq(6, WORDS, 4, 6, **NETS[name]).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p *= 2.5
    return gn.compile(net, backend=backend)


class Next(nn.Module):
    """A language model over time with a conditioning input at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rec = nn.Embedding(WORDS, 4), nn.Linear(4 + 2 + 6, 6)
        self.out = nn.Linear(6, WORDS)

    def graph(self, g: gn.Graph) -> None:
        word = g.input("word", (), over="time", dtype=torch.int64)
        hint, h = g.input("hint", (2,), over="time"), g.state("h", (6,))
        h.next = torch.tanh(self.rec(torch.cat([self.words(word), hint, h])))
        g.output("logits", self.out(h.next))
        g.output("h", h.next)
        g.feedback(word, "logits", choose="sample")


def forced(model: gn.Compiled, tokens: torch.Tensor, start: int = 1, **inputs: Any) -> torch.Tensor:
    """Returns the logits for each position of `tokens` by teacher forcing."""
    before = torch.cat([torch.full_like(tokens[:, :1], start), tokens[:, :-1]], 1)
    return model(source=SOURCE, target=before, lengths=LENGTHS, **inputs)


@pytest.mark.parametrize("name", NETS)
def test_generation_equals_teacher_forcing_with_its_own_symbols(name: str) -> None:
    model = translator(name)
    found = model.generate(source=SOURCE, start=1, max_steps=7, lengths=LENGTHS)
    logits = forced(model, found.tokens)
    assert found.tokens.shape == (3, 7) and found.lengths.tolist() == [7, 7, 7]
    assert torch.equal(logits.argmax(-1), found.tokens)
    scores = torch.log_softmax(logits, -1).gather(-1, found.tokens[..., None]).sum((1, 2))
    torch.testing.assert_close(found.scores, scores, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "interpret"])
def test_every_backend_generates_the_same(backend: str) -> None:
    call = {"source": SOURCE, "start": 1, "max_steps": 4, "lengths": LENGTHS}
    found, wanted = translator(backend=backend).generate(**call), translator().generate(**call)
    assert torch.equal(found.tokens, wanted.tokens)
    torch.testing.assert_close(found.scores, wanted.scores, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NETS)
def test_a_beam_of_one_is_greedy(name: str) -> None:
    call = {"source": SOURCE, "start": 1, "stop": STOP, "max_steps": 9, "lengths": LENGTHS}
    greedy, one = translator(name).generate(**call), translator(name).generate(**call, beam=1)
    assert torch.equal(one.tokens, greedy.tokens) and torch.equal(one.lengths, greedy.lengths)
    torch.testing.assert_close(one.scores, greedy.scores)


def sequences(steps: int) -> list[tuple[int, ...]]:
    """Returns all sequences of up to `steps` symbols; nothing follows the stop symbol."""
    found = set()
    for words in itertools.product(range(WORDS), repeat=steps):
        end = words.index(STOP) + 1 if STOP in words else steps
        found.add(words[:end])
    return sorted(found)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_of_full_width_finds_the_best_sequence(penalty: float) -> None:
    model, steps = translator(), 3
    best = [(float("-inf"), ())] * 3
    for words in sequences(steps):
        tokens = torch.tensor([words] * 3)
        logs = torch.log_softmax(forced(model, tokens), -1).gather(-1, tokens[..., None])
        ranked = logs.sum((1, 2)) / ((5 + len(words)) / 6) ** penalty
        best = [max(b, (r.item(), words)) for b, r in zip(best, ranked)]
    found = model.generate(
        source=SOURCE,
        start=1,
        stop=STOP,
        max_steps=steps,
        beam=WORDS**steps,
        length_penalty=penalty,
        lengths=LENGTHS,
    )
    got = [tuple(t[:n].tolist()) for t, n in zip(found.tokens, found.lengths)]
    assert got == [words for _, words in best]
    assert found.beams is not None and found.beams.tokens.shape == (3, WORDS**steps, steps)


def test_a_wider_beam_never_scores_lower() -> None:
    call = {"source": SOURCE, "start": 1, "stop": STOP, "max_steps": 6, "lengths": LENGTHS}
    scores = [translator().generate(**call, beam=k).scores for k in (1, 2, 3, 5, 8, 13)]
    assert all((b >= a - 1e-12).all() for a, b in itertools.pairwise(scores))
    assert (scores[-1] > scores[0]).any()


def test_positions_after_the_stop_symbol_are_filled_with_it() -> None:
    found = translator().generate(source=SOURCE, start=1, stop=STOP, max_steps=9, lengths=LENGTHS)
    for tokens, length in zip(found.tokens, found.lengths):
        assert (tokens[length:] == STOP).all() and STOP not in tokens[: length - 1]
        assert length == found.tokens.shape[1] or tokens[length - 1] == STOP


def test_a_batch_generates_the_same_as_each_example_alone() -> None:
    model = translator()
    for beam in (None, 3):
        call = {"start": 1, "stop": STOP, "max_steps": 6, "beam": beam}
        together = model.generate(source=SOURCE, lengths=LENGTHS, **call)
        for k, length in enumerate(LENGTHS["source"]):
            alone = model.generate(source=SOURCE[k : k + 1, :length], **call)
            n = int(alone.lengths)
            assert n == together.lengths[k]
            assert torch.equal(alone.tokens[0, :n], together.tokens[k, :n])
    none = model.generate(source=SOURCE[:0], start=1, max_steps=2)
    assert none.tokens.shape == (0, 1) and none.scores.shape == (0,)


def test_the_step_graph_contains_no_encoder() -> None:
    before, steps = translator().parts("target")
    assert before is not None and "axis_softmax" not in {n.op for n in before.ir}
    assert not any(n.op == "delay" and n.attrs["axis"] == "source" for n in steps.ir)
    held = [n for n in steps.ir if n.op == "input" and n.name.startswith("held")]
    assert held and {n.op for n in steps.ir if n.op == "input" and n.name == "target"}


def test_the_parts_of_a_model_are_models() -> None:
    model = translator()
    before, steps = model.parts("target")
    assert before is not None
    words = torch.randint(5, (2, 4))
    target = torch.randint(5, (2, 3))
    with torch.no_grad():
        wanted = model(source=words, target=target)
        given = before(source=words)
        given = given if isinstance(given, dict) else {next(iter(before.ir.outputs)): given}
        torch.testing.assert_close(steps(target=target, **given), wanted)


def test_generation_can_start_from_several_symbols() -> None:
    torch.manual_seed(0)
    model, hint = gn.compile(Next().double()), torch.randn(2, 8, 2, dtype=torch.float64)
    start = torch.tensor([[1, 3, 0], [4, 4, 2]])
    found = model.generate(start=start, hint=hint, max_steps=5, choose="argmax")
    words = torch.cat([start, found.tokens], 1)
    logits = model(word=words[:, :-1], hint=hint[:, :7])["logits"]
    assert torch.equal(logits[:, 2:].argmax(-1), found.tokens)


def test_samples_follow_temperature_top_k_and_top_p() -> None:
    torch.manual_seed(0)
    model, hint = gn.compile(Next().double()), torch.randn(1, 4, 2, dtype=torch.float64)
    call = {"start": torch.ones(4000, dtype=torch.int64), "hint": hint.expand(4000, 4, 2)}

    def drawn(seed: int, **how: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return model.generate(**call, max_steps=1, generator=generator, **how).tokens[:, 0]

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    logits = model(word=torch.ones(1, 1, dtype=torch.int64), hint=hint[:, :1])["logits"][
        0, 0
    ].detach()
    for heat in (1.0, 0.5):
        wanted = torch.softmax(logits / heat, -1)
        counts = drawn(3, temperature=heat).bincount(minlength=WORDS) / 4000
        assert ((counts - wanted).abs() < 5 * (wanted / 4000).sqrt()).all()
    order = logits.argsort(descending=True)
    assert set(drawn(4, top_k=2).tolist()) == set(order[:2].tolist())
    assert set(drawn(4, top_k=1).tolist()) == {int(order[0])}
    reach = torch.softmax(logits, -1)[order].cumsum(0)
    assert set(drawn(5, top_p=float(reach[1]) - 1e-6).tolist()) == set(order[:2].tolist())


def test_invalid_arguments_of_generate_raise_with_the_reason() -> None:
    model = translator()
    with pytest.raises(GenerateError, match=r"(?s)beam search.*leave beam out"):
        model.generate(source=SOURCE, start=1, beam=2, choose="sample")
    invalid = {
        "not chosen by 'greedy'": {"choose": "greedy"},
        "beam is too small": {"beam": 0},
        "beam is not a whole number": {"beam": 1.5},
        "top_k is too small": {"top_k": 0, "choose": "sample"},
        "temperature is out of range": {"temperature": 0.0, "choose": "sample"},
        "top_p is out of range": {"top_p": 1.5, "choose": "sample"},
    }
    for reason, given in invalid.items():
        with pytest.raises(GenerateError, match=reason):
            model.generate(source=SOURCE, start=1, **given)
    with pytest.raises(GenerateError, match="max_steps is too small"):
        model.generate(source=SOURCE, start=1, max_steps=0)
    with pytest.raises(GenerateError, match=r"the wrong shape for these examples"):
        model.generate(source=SOURCE, start=torch.zeros(2, 1, dtype=torch.int64))
    silent = gn.compile(_Silent())
    with pytest.raises(GenerateError, match=r"(?s)0 calls of g.feedback.*g.feedback\(input"):
        silent.generate(start=1)


class _Silent(nn.Module):
    def graph(self, g: gn.Graph) -> None:
        g.output("y", g.input("x", (3,), over="time") * 2)


@pytest.mark.parametrize("wrong", ["float", "choose", "output", "axis"])
def test_an_invalid_feedback_raises_with_the_reason(wrong: str) -> None:
    g = gn.Graph("wrong")
    kind = torch.float32 if wrong == "float" else torch.int64
    word = g.input("word", (), over="time", dtype=kind)
    other = g.input("other", (4,), over="space" if wrong == "axis" else "time")
    g.output("logits", other * 1)
    output = "nothing" if wrong == "output" else "logits"
    with pytest.raises(GraphError, match=r"(?s)cannot be fed back.*g\.input"):
        g.feedback(word, output, "best" if wrong == "choose" else "argmax")


@pytest.mark.parametrize("beam", [None, 3])
def test_attention_weights_and_states_are_recorded(beam: int | None) -> None:
    torch.manual_seed(0)
    net = gn.nn.Seq2Seq(9, 8, 4, 6, attention="additive", with_weights=True)
    model = gn.compile(net)
    source = torch.randint(9, (2, 5))
    found = model.generate(
        source=source, start=1, max_steps=4, beam=beam, record=["weights", "attention.h"]
    )
    target = torch.cat([torch.ones(2, 1, dtype=torch.int64), found.tokens[:, :-1]], 1)
    forced, states = model(source=source, target=target, record=["attention.h"])
    # the axes of an output follow the order of the inputs: source before target
    torch.testing.assert_close(found.record["weights"], forced["weights"].transpose(1, 2))
    torch.testing.assert_close(found.record["attention.h"], states["attention.h"])
    torch.testing.assert_close(found.record["weights"].sum(-1), torch.ones(2, 4))
    if beam is not None:
        assert found.beams is not None
        assert found.beams.record["weights"].shape == (2, 3, 4, 5)


def test_an_empty_batch_generates_nothing() -> None:
    model = gn.compile(gn.nn.Seq2Seq(9, 8, 4, 6))
    for beam in (None, 3):
        found = model.generate(
            source=torch.zeros((0, 5), dtype=torch.int64), start=1, max_steps=2, beam=beam
        )
        assert found.tokens.shape[0] == 0 and found.lengths.shape == (0,)


def test_recording_an_unknown_name_raises_with_the_reason() -> None:
    model = gn.compile(gn.nn.Seq2Seq(9, 8, 4, 6, attention="dot"))
    words = torch.zeros((1, 2), dtype=torch.int64)
    with pytest.raises(GenerateError, match=r"(?s)no output or state.*with_weights=True"):
        model.generate(source=words, start=1, record=["weights"])
