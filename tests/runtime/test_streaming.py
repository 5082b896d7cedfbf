"""Streaming attention: cache contents, equality with the whole sequence, and refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.planner.boundary.step_graph import CACHE
from tests.nn.common import doubles, randomised

WIDTH = 8
Block = gn.nn.TransformerBlock


class Stack(nn.Module):
    """A causal transformer of three layers."""

    def __init__(self, positions: Any = None, **options: Any):
        super().__init__()
        self.places = gn.nn.SinusoidalPositions(WIDTH)
        self.blocks = nn.ModuleList(
            Block(WIDTH, 4, 16, causal=True, positions=positions and positions(), **options)
            for _ in range(3)
        )

    def graph(self, g: gn.Graph) -> None:
        x = self.places(g.input("x", (WIDTH,), over="time"))
        for block in self.blocks:
            x = block(x)
        g.output("y", x)


def streamed(model: gn.Compiled, inputs: dict[str, Tensor], state: Any, **fixed: Any) -> Any:
    """Runs a sequence step by step; returns all outputs and the final states."""
    steps = []
    for t in range(next(iter(inputs.values())).shape[1]):
        y, state = model.step(state, **{k: v[:, t] for k, v in inputs.items()}, **fixed)
        steps.append(y)
    return torch.stack(steps, 1), state


STACKS: dict[str, Callable[[], nn.Module]] = {
    "post_norm": Stack,
    "pre_norm": lambda: Stack(norm_first=True),
    "grouped_rotary": lambda: Stack(lambda: gn.nn.RotaryPositions(2), kv_heads=2),
    "relative": lambda: Stack(lambda: gn.nn.RelativePositions(4, 3)),
    "window": lambda: Stack(window=3),
}


@pytest.mark.parametrize("batch, time", [(1, 1), (3, 9)])
@pytest.mark.parametrize("name", STACKS)
def test_steps_equal_the_whole_sequence(name: str, batch: int, time: int) -> None:
    model = gn.compile(randomised(STACKS[name]()))
    x = doubles(batch, time, WIDTH)
    y, state = streamed(model, {"x": x}, model.initial_state(batch))
    torch.testing.assert_close(y, model(x=x), rtol=1e-10, atol=1e-10)
    caches = {k: v for k, v in state.items() if k.startswith(CACHE)}
    assert len(caches) == 6  # keys and values of three layers, and nothing else
    longest = {v.shape[1] for v in caches.values()}
    assert longest == {min(time, 3) if name == "window" else time}


@pytest.mark.parametrize("backend", ["reference", "interpret"])
def test_steps_on_other_backends_equal_the_whole_sequence(backend: str) -> None:
    net, x = randomised(STACKS["grouped_rotary"]()), doubles(2, 3, WIDTH)
    model = gn.compile(net, backend=backend)
    y, _ = streamed(model, {"x": x}, model.initial_state(2))
    torch.testing.assert_close(y, gn.compile(net)(x=x), rtol=1e-12, atol=1e-12)


def test_a_stream_can_start_empty_and_the_dtype_can_change() -> None:
    model = gn.compile(randomised(Stack()))
    x = doubles(2, 4, WIDTH)
    y, _ = streamed(model, {"x": x}, {})
    torch.testing.assert_close(y, model(x=x), rtol=1e-10, atol=1e-10)
    model.float()
    y, _ = streamed(model, {"x": x.float()}, model.initial_state(2))
    torch.testing.assert_close(y, model(x=x.float()), rtol=1e-5, atol=1e-5)


def test_gradients_flow_through_steps() -> None:
    model, x = gn.compile(randomised(Stack())), doubles(1, 4, WIDTH)
    wanted = [x, *model.parameters()]
    y, _ = streamed(model, {"x": x}, {})
    ours = torch.autograd.grad(y.square().sum(), wanted)
    theirs = torch.autograd.grad(model(x=x).square().sum(), wanted)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class Decoder(nn.Module):
    """A decoder that attends to an encoder's whole sequence and has its own recurrent state."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Block(WIDTH, 2)
        self.decoder = Block(WIDTH, 2, causal=True, cross=True)
        self.rnn = gn.nn.GRU(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        h = self.encoder(g.input("h", (WIDTH,), over="source"))
        x = self.rnn(g.input("x", (WIDTH,), over="target"))
        g.output("y", self.decoder(x, h))


def test_a_decoder_with_an_encoder_and_a_loop() -> None:
    model = gn.compile(randomised(Decoder()))
    h, x = doubles(2, 5, WIDTH), doubles(2, 4, WIDTH, seed=1)
    steps, state = [], model.initial_state(2, over="target")
    for t in range(4):
        y, state = model.step(state, over="target", h=h, x=x[:, t])
        steps.append(y)
    whole = model(h=h, x=x)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-10, atol=1e-10)


class Translator(nn.Module):
    """An encoder and a causal decoder of symbols, with feedback for generation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(7, WIDTH), nn.Linear(WIDTH, 7)
        self.places = gn.nn.SinusoidalPositions(WIDTH)
        self.encoder = Block(WIDTH, 2)
        self.decoder = Block(WIDTH, 2, causal=True, cross=True)

    def graph(self, g: gn.Graph) -> None:
        source = g.input("source", over="source", dtype=torch.int64)
        target = g.input("target", over="target", dtype=torch.int64)
        memory = self.encoder(self.places(self.embed(source)))
        h = self.decoder(self.places(self.embed(target)), memory)
        g.output("logits", self.out(h))
        g.feedback("target", "logits")


@pytest.mark.parametrize("beam", [None, 3])
def test_generation_scores_equal_the_whole_sequence_call(beam: int | None) -> None:
    """Greedy symbols are the argmax of the whole-sequence logits; scores match in any case."""
    model = gn.compile(randomised(Translator()).eval())
    source, lengths = torch.tensor([[1, 2, 3], [4, 5, 0]]), {"source": torch.tensor([3, 2])}
    found = model.generate(source=source, lengths=lengths, start=0, max_steps=5, beam=beam)
    tokens = found.tokens[:, 0] if found.tokens.dim() == 3 else found.tokens
    given = torch.cat([torch.zeros(2, 1, dtype=torch.int64), tokens[:, :-1]], 1)
    logits = model(source=source, target=given, lengths=lengths)
    if beam is None:
        assert torch.equal(logits.argmax(-1), tokens)
    score = logits.log_softmax(-1).gather(-1, tokens[..., None]).sum((1, 2))
    best = found.scores[:, 0] if found.scores.dim() == 2 else found.scores
    torch.testing.assert_close(score, best.to(score.dtype), rtol=1e-6, atol=1e-6)


class Written(nn.Module):
    """Attention from basic operations; `masks` turns the score into causal weights."""

    def __init__(self, masks: Callable[[Any, Any, Any], Any], early: bool = False) -> None:
        super().__init__()
        self.masks, self.early = masks, early
        self.key, self.query = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        if self.early:  # renamed before the map: the cache still holds the mapped value
            key = self.key(gn.rename(x, time="past")) + 0.1 * gn.index("past")
        else:
            key = gn.rename(self.key(x) + 0.1 * gn.index("time"), time="past")
        score = gn.dot(self.query(x), key) * 0.3
        weights = self.masks(score, gn.index("past"), gn.index("time"))
        g.output("y", gn.sum(weights * key, over="past"))


INF = float("inf")
CAUSAL: dict[str, tuple[Callable[[Any, Any, Any], Any], int | None]] = {
    "where": (lambda s, p, t: gn.softmax(torch.where(p <= t, s, -INF), "past"), None),
    "masked_fill": (lambda s, p, t: gn.softmax(s.masked_fill(p > t, -INF), "past"), None),
    "added": (lambda s, p, t: gn.softmax(s + torch.where(t - p < 0, -INF, 0.0), "past"), None),
    "strictly": (lambda s, p, t: gn.softmax(torch.where(p < t, s, -INF), "past"), None),
    "window": (
        lambda s, p, t: gn.softmax(torch.where((p <= t) & (p > t - 3), s, -INF), "past"), 3
    ),
    "nested": (
        lambda s, p, t: gn.softmax(
            torch.where(p <= t, torch.where(t - p <= 1, s, -INF), -INF) / 2.0, "past"
        ),
        2,
    ),
    "not": (lambda s, p, t: gn.softmax(torch.where(~((p > t) | (p < t - 4)), s, -INF), "past"), 5),
    "linear": (lambda s, p, t: torch.where(p <= t, s, 0.0), None),
    "decayed": (lambda s, p, t: s * (p <= t) * torch.exp(-0.1 * (t - p)), None),
    "previous": (lambda s, p, t: torch.where(p == t - 1, s, 0.0), 2),
    "normalised": (
        lambda s, p, t: torch.exp(
            (m := torch.where(p <= t, s, -INF)) - gn.logsumexp(m, "past")
        ),
        None,
    ),
    "top": (
        lambda s, p, t: gn.softmax(
            torch.where(gn.top(m := torch.where(p <= t, s, -INF), 2, "past"), m, -INF), "past"
        ),
        None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_masks_are_recognised(name: str, early: bool) -> None:
    masks, window = CAUSAL[name]
    model = gn.compile(randomised(Written(masks, early)))
    x = doubles(2, 8, WIDTH)
    y, state = streamed(model, {"x": x}, model.initial_state(2))
    torch.testing.assert_close(y, model(x=x), rtol=1e-10, atol=1e-10)
    (cache,) = [v for k, v in state.items() if k.startswith(CACHE)]
    assert cache.shape == (2, window or 8, WIDTH)


AHEAD: dict[str, Callable[[Any, Any, Any], Any]] = {
    "no mask": lambda s, p, t: gn.softmax(s, "past"),
    "ahead": lambda s, p, t: gn.softmax(torch.where(p <= t + 1, s, -INF), "past"),
    "reversed": lambda s, p, t: gn.softmax(torch.where(p >= t, s, -INF), "past"),
    "wrong fill": lambda s, p, t: gn.softmax(torch.where(p <= t, s, 0.0), "past"),
    "large, not infinite": lambda s, p, t: gn.softmax(torch.where(p <= t, s, -1e9), "past"),
    "either": lambda s, p, t: gn.softmax(torch.where((p <= t) | (s > 0), s, -INF), "past"),
    "after": lambda s, p, t: torch.where(p <= t, gn.softmax(s, "past"), 0.0),
    "turned": lambda s, p, t: gn.reverse(torch.where(p <= t, s, 0.0), "past"),
}


@pytest.mark.parametrize("name", AHEAD)
def test_attention_to_later_positions_is_refused(name: str) -> None:
    model = gn.compile(randomised(Written(AHEAD[name])))
    with pytest.raises(gn.errors.StepError, match=r"over 'past', a copy of 'time'.*\n") as found:
        model.initial_state(1)
    assert "test_streaming.py" in str(found.value) and "needs all of it" in str(found.value)


def test_a_cache_with_the_wrong_shape_is_refused() -> None:
    model = gn.compile(randomised(Stack()))
    state = model.initial_state(2)
    name = next(k for k in state if k.startswith(CACHE))
    with pytest.raises(gn.errors.StateError, match="another shape"):
        model.step({**state, name: torch.zeros(2)}, x=torch.zeros(2, WIDTH).double())


def test_a_step_without_its_input_is_refused() -> None:
    model = gn.compile(randomised(Stack()))
    for state in ({}, model.initial_state(2)):
        with pytest.raises(gn.errors.MissingInputError, match="input 'x' was not given"):
            model.step(state)


def test_steps_apply_dropout_in_training_only() -> None:
    model = gn.compile(randomised(Stack(dropout=0.5)))
    x, state = doubles(1, 2, WIDTH), model.initial_state(1)
    a, b = (model.step(state, x=x[:, 0])[0] for _ in range(2))
    assert not torch.equal(a, b)
    model.eval()
    a, b = (model.step(state, x=x[:, 0])[0] for _ in range(2))
    assert torch.equal(a, b)
