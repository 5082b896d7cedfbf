"""Decoding step by step: the encoder runs once and the steps equal the whole-sequence call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.planner.boundary.step_graph import CACHE
from tests.nn.common import doubles, randomised

WORDS, WIDTH = 7, 8
Block = gn.nn.TransformerBlock


class Transformer(nn.Module):
    """An encoder and a causal decoder of two layers each."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.places = gn.nn.SinusoidalPositions(WIDTH)
        self.encoder = nn.ModuleList(Block(WIDTH, 2, 16) for _ in range(2))
        self.decoder = nn.ModuleList(
            Block(WIDTH, 2, 16, causal=True, cross=True, **options) for _ in range(2)
        )

    def graph(self, g: gn.Graph) -> None:
        memory = self.places(self.words(g.input("source", over="source", dtype=torch.int64)))
        for block in self.encoder:
            memory = block(memory)
        h = self.places(self.words(g.input("target", over="target", dtype=torch.int64)))
        for block in self.decoder:
            h = block(h, memory)
        g.output("logits", self.out(h))
        g.feedback("target", "logits")


class Located(nn.Module):
    """A decoder with location-aware attention: its states vary over the source axis."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.encoder = gn.nn.LSTM(WIDTH, WIDTH)
        self.look = gn.nn.LocationAttention(WIDTH, WIDTH, WIDTH, reach=1)
        self.cell = nn.GRUCell(2 * WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        memory = self.encoder(self.words(g.input("source", over="source", dtype=torch.int64)))
        x = self.words(g.input("target", over="target", dtype=torch.int64))
        s = g.state("s", (WIDTH,), over="target", init=gn.last(memory, "source"))
        context = self.look(s, memory, over="source")
        s.next = self.cell(torch.cat([x, context]), s)
        g.output("logits", self.out(s.next))
        g.output("length", gn.length("source") * 1.0)
        g.output("memory", memory)


class Plain(nn.Module):
    """A decoder that attends to a raw input; a second input initialises both slots of a state."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.map = nn.Embedding(WORDS, WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        source = g.input("source", (WIDTH,), over="source")
        hint = g.input("hint", (WIDTH,))
        x = self.words(g.input("target", over="target", dtype=torch.int64))
        s = g.state("s", (WIDTH,), over="target", delay=2, init=[hint, torch.tanh(hint)])
        read = gn.attend(s, source, over="source")
        s.next = torch.tanh(self.map(torch.cat([x, read])))
        g.output("logits", s.next)


def seq2seq(**options: Any) -> nn.Module:
    return gn.nn.Seq2Seq(WORDS, WORDS, 4, 6, **options)


NETS: dict[str, Callable[[], nn.Module]] = {
    "no_attention": lambda: seq2seq(num_layers=2, reverse=True),
    "additive": lambda: seq2seq(attention="additive", bidirectional=True, num_layers=2),
    "dot": lambda: seq2seq(attention="dot", cell="gru"),
    "location": Located,
    "given": Plain,
    "transformer": Transformer,
    "window": lambda: Transformer(window=3, norm_first=True),
}


def source_of(name: str, batch: int, size: int) -> dict[str, Tensor]:
    """The inputs that do not vary over the target."""
    if name == "given":
        return {"source": doubles(batch, size, WIDTH), "hint": doubles(batch, WIDTH, seed=1)}
    generator = torch.Generator().manual_seed(1)
    return {"source": torch.randint(WORDS, (batch, size), generator=generator)}


def target_of(batch: int, size: int) -> Tensor:
    return torch.randint(WORDS, (batch, size), generator=torch.Generator().manual_seed(2))


def logits_of(found: Any) -> Tensor:
    logits: Tensor = found["logits"] if isinstance(found, dict) else found
    return logits


def streamed(model: gn.Compiled, state: Any, target: Tensor, **fixed: Any) -> Tensor:
    """Returns the logits of a target, computed one step at a time."""
    steps = []
    for word in target.unbind(1):
        y, state = model.step(state, over="target", target=word, **fixed)
        steps.append(logits_of(y))
    return torch.stack(steps, 1)


SIZES = {"one": (1, 1, 1), "odd": (3, 5, 6), "none": (0, 3, 2)}
CASES = [(n, s) for n in NETS for s in SIZES if s == "odd" or n in ("location", "transformer")]


@pytest.mark.parametrize("name, sizes", CASES)
def test_steps_equal_the_whole_sequence(name: str, sizes: str) -> None:
    model, (batch, size, time) = gn.compile(randomised(NETS[name]())), SIZES[sizes]
    given, target = source_of(name, batch, size), target_of(batch, time)
    ragged = {"source": torch.tensor([5, 2, 4])[:batch]} if sizes == "odd" else None
    with torch.no_grad():
        whole = logits_of(model(**given, target=target, lengths=ragged))
        state = model.initial_state(over="target", lengths=ragged, **given)
        y = streamed(model, state, target)
    torch.testing.assert_close(y, whole, rtol=1e-12, atol=1e-12)


BACKENDS = ["reference", pytest.param("interpret", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["additive", "transformer"])
def test_steps_on_other_backends_equal_the_whole_sequence(name: str, backend: str) -> None:
    net, given, target = randomised(NETS[name]()), source_of(name, 2, 3), target_of(2, 2)
    model, lengths = gn.compile(net, backend=backend), {"source": torch.tensor([3, 1])}
    whole = gn.compile(net)(**given, target=target, lengths=lengths)
    state = model.initial_state(over="target", lengths=lengths, **given)
    for context in (torch.enable_grad(), torch.no_grad()):
        with context:
            y = streamed(model, state, target)
        torch.testing.assert_close(y, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["no_attention", "additive", "transformer"])
def test_gradients_flow_through_steps_to_the_encoder(name: str) -> None:
    model = gn.compile(randomised(NETS[name]()))
    given, target = source_of(name, 2, 4), target_of(2, 3)
    lengths = {"source": torch.tensor([4, 2])}
    state = model.initial_state(over="target", lengths=lengths, **given)
    wanted = list(model.parameters())
    ours = torch.autograd.grad(streamed(model, state, target).square().sum(), wanted)
    whole = model(**given, target=target, lengths=lengths)
    for a, b in zip(ours, torch.autograd.grad(whole.square().sum(), wanted)):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["additive", "transformer"])
def test_the_encoder_runs_once(name: str) -> None:
    """After `initial_state`, steps read neither the source nor the encoder's weights."""
    net = randomised(NETS[name]())
    model, given, target = gn.compile(net), source_of(name, 2, 3), target_of(2, 2)
    state = model.initial_state(over="target", **given)
    wanted = streamed(model, state, target)
    with torch.no_grad():
        for p in net.encoder.parameters():  # type: ignore[operator, union-attr]
            p.fill_(float("nan"))
    assert torch.equal(streamed(model, state, target), wanted)
    assert not torch.isfinite(streamed(model, {}, target, **given)).all()


def test_a_source_may_be_given_at_every_step_instead() -> None:
    model = gn.compile(randomised(NETS["location"]()))
    given, target = source_of("location", 2, 3), target_of(2, 3)
    lengths = {"source": torch.tensor([3, 1])}
    whole = model(**given, target=target, lengths=lengths)["logits"]
    for state in ({}, model.initial_state(2, over="target")):
        y = streamed(model, state, target, **given, lengths=lengths)
        torch.testing.assert_close(y, whole, rtol=1e-12, atol=1e-12)


def test_a_dropout_mask_locked_over_time_is_drawn_once_per_sequence() -> None:
    class Locked(nn.Module):
        def graph(self, g: gn.Graph) -> None:
            x = g.input("x", (WIDTH,), over="time")
            g.output("y", gn.nn.LockedDropout(0.5)(x, over="time"))

    model, x = gn.compile(Locked().train()), torch.ones(3, WIDTH)
    state = model.initial_state(3)
    first, state = model.step(state, x=x)
    second, _ = model.step(state, x=x)
    assert torch.equal(first, second) and len({*first.flatten().tolist()}) == 2


class Causal(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.block = Block(WIDTH, 2, causal=True, **options)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.block(g.input("x", (WIDTH,), over="time")))


@pytest.mark.parametrize("window", [None, 5])
def test_old_states_stay_valid(window: int | None) -> None:
    """Several states share a buffer; a step from any of them, in any order, is correct."""
    model, x = gn.compile(randomised(Causal(window=window))), doubles(2, 40, WIDTH)
    other = doubles(2, 40, WIDTH, seed=1)
    with torch.no_grad():
        states, line = [model.initial_state(2)], []
        for t in range(40):
            y, state = model.step(states[-1], x=x[:, t])
            states.append(state)
            line.append(y)
        torch.testing.assert_close(torch.stack(line, 1), model(x=x), rtol=1e-12, atol=1e-12)
        copies = [{k: v.clone() for k, v in s.items()} for s in states]
        for t in (39, 7, 0, 23):
            branch, _ = model.step(states[t], x=other[:, t])
            mixed = torch.cat([x[:, :t], other[:, t : t + 1]], 1)
            torch.testing.assert_close(branch, model(x=mixed)[:, -1], rtol=1e-12, atol=1e-12)
            again, _ = model.step(states[t], x=x[:, t])
            torch.testing.assert_close(again, line[t], rtol=1e-12, atol=1e-12)
        for state, copy in zip(states, copies):
            assert all(torch.equal(state[k], v) for k, v in copy.items())


def test_a_step_writes_one_position_and_copies_nothing() -> None:
    model, x = gn.compile(randomised(Causal())), doubles(1, 80, WIDTH)
    with torch.no_grad():
        state, addresses = model.initial_state(1), set()
        for t in range(80):
            _, state = model.step(state, x=x[:, t])
            (key, _) = (v for k, v in state.items() if k.startswith(CACHE))
            addresses.add(key.data_ptr())
    assert len(addresses) == 4  # buffers of 16, 32, 64 and 128 positions


def test_a_stream_can_enter_and_leave_inference_mode() -> None:
    model, x = gn.compile(randomised(Causal())), doubles(2, 9, WIDTH)
    modes = (torch.no_grad, torch.inference_mode, torch.no_grad, torch.enable_grad)
    state, steps = model.initial_state(2), []
    for t in range(9):
        with modes[t % 4]():
            y, state = model.step(state, x=x[:, t])
        steps.append(y.detach().clone())
    torch.testing.assert_close(torch.stack(steps, 1), model(x=x), rtol=1e-12, atol=1e-12)


def test_beam_search_does_not_reorder_the_encoder_values_in_the_state() -> None:
    model = gn.compile(randomised(NETS["transformer"]()).eval())
    given, call = source_of("transformer", 2, 4), {"start": 0, "max_steps": 5, "beam": 4}
    lengths = {"source": torch.tensor([4, 2])}
    together = model.generate(**given, lengths=lengths, **call)
    for k, n in enumerate((4, 2)):
        alone = model.generate(source=given["source"][k : k + 1, :n], **call)
        assert torch.equal(alone.beams.tokens[0], together.beams.tokens[k])  # type: ignore[union-attr]


def decoder_and_state() -> tuple[gn.Compiled, Any, dict[str, Tensor]]:
    model, given = gn.compile(randomised(NETS["additive"]())), source_of("additive", 2, 3)
    return model, model.initial_state(over="target", **given), given


def test_invalid_arguments_of_initial_state_raise_with_the_reason() -> None:
    model, _, given = decoder_and_state()
    errors, target = gn.errors, target_of(2, 1)
    with pytest.raises(errors.UnknownInputError, match=r"(?s)varies over 'target'.*model.step"):
        model.initial_state(over="target", target=target)
    with pytest.raises(errors.UnknownInputError, match="has no input 'sauce'"):
        model.initial_state(over="target", sauce=target)
    with pytest.raises(errors.InputShapeError, match="disagree about the number of examples"):
        model.initial_state(3, over="target", **given)
    with pytest.raises(errors.LengthsError, match="out of range"):
        model.initial_state(over="target", lengths={"source": torch.tensor([4, 1])}, **given)
    with pytest.raises(errors.MissingInputError, match=r"(?s)'source' was not given.*source=…"):
        model.initial_state(over="target", lengths={"source": torch.tensor([3, 1])})
    with pytest.raises(errors.MissingInputError, match=r"(?s)'hint' was not given.*hint=…"):
        plain = gn.compile(randomised(Plain()))
        plain.initial_state(over="target", source=source_of("given", 2, 3)["source"])
    with pytest.raises(errors.LengthsError, match="takes none of them"):
        gn.compile(Causal()).initial_state(lengths={"time": torch.tensor([1])})


def test_a_step_with_an_unsuitable_state_raises_with_the_reason() -> None:
    model, state, given = decoder_and_state()
    errors, word = gn.errors, target_of(2, 1)[:, 0]
    with pytest.raises(errors.UnknownInputError, match=r"(?s)already holds what.*leave it out"):
        model.step(state, over="target", target=word, **given)
    with pytest.raises(errors.LengthsError, match="already holds the lengths"):
        model.step(state, over="target", target=word, lengths={"source": torch.tensor([3, 3])})
    with pytest.raises(
        errors.MissingInputError,
        match=r"(?s)neither to step.*initial_state\(s",
    ):
        model.step(model.initial_state(2, over="target"), over="target", target=word)
    with pytest.raises(errors.InputShapeError, match="disagrees about the length of 'batch'"):
        model.step(state, over="target", target=word[:1])
    name = next(k for k in state if k.startswith("held"))
    with pytest.raises(errors.StateError, match=r"(?s)another shape.*batch, source"):
        model.step({**state, name: state[name][:, 0]}, over="target", target=word)
    other = gn.compile(randomised(NETS["transformer"]()))
    theirs = other.initial_state(over="target", **source_of("transformer", 2, 3))
    with pytest.raises(errors.MissingInputError, match="neither to step nor to initial_state"):
        model.step(theirs, over="target", target=word)
    with pytest.raises(errors.LengthsError, match="takes no lengths of it"):
        lengths = {"time": torch.tensor([1, 0])}
        gn.compile(Causal().double()).step({}, x=doubles(2, WIDTH), lengths=lengths)
