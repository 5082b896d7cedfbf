"""Associative memory, memory network and transformer on every backend, in float64.

Outputs, final states, and the gradients of inputs and parameters are compared with "reference", to
1e-12 relative. Each network also learns its task.
"""

import math

import pytest
import torch
from torch import nn

import graphnn as gn
from tests.networks.equality import compare

BACKENDS = ["torch", "interpret"]
backends = pytest.mark.parametrize("backend", BACKENDS)


def randoms(**shapes):
    """Inputs that need gradients."""
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def same(net, inputs, lengths=None, backend="torch"):
    """The backend and the reference give the same results."""
    torch.manual_seed(3)
    lengths = {axis: torch.tensor(n) for axis, n in (lengths or {}).items()}
    compare(net().double(), inputs, lengths, backend=backend)


class Hetero(nn.Module):
    """Trained keys and values; an address reads by a softmax over the slots."""

    slots, width = 7, 4

    def __init__(self):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(self.slots, self.width))
        self.values = nn.Parameter(torch.randn(self.slots, 3))

    def graph(self, g):
        g.axis("slot", self.slots)
        x = g.input("x", (self.width,), over="time")
        match = gn.dot(gn.along(self.keys, "slot"), x)
        g.output("y", gn.sum(gn.softmax(match, "slot") * gn.along(self.values, "slot"), "slot"))


@backends
@pytest.mark.parametrize("batch, time", [(2, 5), (1, 1), (0, 3)])
def test_associative_memory_of_parameters(backend, batch, time):
    same(Hetero, randoms(x=(batch, time, 4)), backend=backend)


class Notes(nn.Module):
    """A short-term memory of four slots: inputs are written, and similar ones are read."""

    def __init__(self):
        super().__init__()
        self.memory = gn.nn.AssociativeMemory(4, 3, 3, learned=False, sharpness=2.0)
        self.ask = nn.Linear(3, 3)

    def graph(self, g):
        x = g.input("x", (3,), over="time")
        g.output("y", self.memory(self.ask(x), x, x * 0.5))


@backends
@pytest.mark.parametrize("lengths", [None, {"time": [6, 0, 3]}])
def test_associative_memory_written_at_run_time(backend, lengths):
    same(Notes, randoms(x=(3, 6, 3)), lengths, backend)


def test_a_key_that_matches_gives_its_value():
    class Pairs(nn.Module):
        def graph(self, g):
            k = g.input("k", (8,), over="slot")
            v, x = g.input("v", (2,), over="slot"), g.input("x", (8,))
            g.output("y", gn.lookup(x, k, v, sharpness=60.0))

    torch.manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(1, 20, 8), dim=-1)
    v, read = torch.randn(1, 20, 2), gn.compile(Pairs())
    for n in range(20):
        torch.testing.assert_close(read(k=k, v=v, x=k[:, n]), v[:, n], rtol=0, atol=0.2)


class Story(nn.Module):
    """Three hops over a story, with all parts of the paper's network."""

    def __init__(self, **options):
        super().__init__()
        self.memory = gn.nn.MemoryNetwork(12, 6, 3, capacity=8, **options)

    def graph(self, g):
        story = g.input("story", over=("sentence", "word"), dtype=torch.int64)
        question = g.input("question", over="asked", dtype=torch.int64)
        g.output("answer", self.memory(story, question))


def random_story(batch, sentences, words=4):
    generator = torch.Generator().manual_seed(0)
    return {
        "story": torch.randint(0, 12, (batch, sentences, words), generator=generator),
        "question": torch.randint(1, 12, (batch, 3), generator=generator),
    }


@backends
@pytest.mark.parametrize("tying", ["adjacent", "layer"])
@pytest.mark.parametrize("lengths", [None, {"sentence": [5, 0, 2]}])
def test_memory_network(backend, tying, lengths):
    same(lambda: Story(tying=tying), random_story(3, 5), lengths, backend)


@pytest.mark.parametrize("batch, sentences", [(1, 1), (0, 3), (2, 10)])
def test_memory_network_of_one_sentence_and_of_more_than_it_holds(batch, sentences):
    same(Story, random_story(batch, sentences))


def test_a_memory_network_learns_to_look():
    """Two sentences 'name place', and a query for the place of a name, which needs one hop."""
    torch.manual_seed(0)
    names, places = torch.arange(1, 5), torch.arange(5, 9)
    model = gn.compile(Story())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(250):
        who = torch.rand(64, 4).argsort(1)[:, :2]
        where = torch.randint(4, (64, 2))
        story = torch.stack([names[who], places[where]], -1)
        pick = torch.randint(2, (64, 1))
        scores = model(story=story, question=names[who].gather(1, pick))
        answer = places[where].gather(1, pick)[:, 0]
        loss = nn.functional.cross_entropy(scores, answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (scores.argmax(-1) == answer).double().mean() > 0.95


class Transformer(nn.Module):
    """An encoder and a decoder of one block each, with positions (Vaswani et al. 2017)."""

    width = 8

    def __init__(self):
        super().__init__()
        block = gn.nn.TransformerBlock
        self.embed, self.places = nn.Embedding(9, self.width), gn.nn.SinusoidalPositions(8)
        self.encoder = block(self.width, 2, 12)
        self.decoder = block(self.width, 2, 12, causal=True, cross=True, norm_first=True)
        self.out = nn.Linear(self.width, 9)

    def graph(self, g):
        source = g.input("source", over="source", dtype=torch.int64)
        target = g.input("target", over="target", dtype=torch.int64)
        memory = self.encoder(self.places(self.embed(source)))
        g.output("scores", self.out(self.decoder(self.places(self.embed(target)), memory)))


def sentences(batch, source, target):
    generator = torch.Generator().manual_seed(0)
    return {
        "source": torch.randint(9, (batch, source), generator=generator),
        "target": torch.randint(9, (batch, target), generator=generator),
    }


@backends
@pytest.mark.parametrize("lengths", [None, {"source": [4, 1, 0], "target": [2, 3, 1]}])
def test_transformer(backend, lengths):
    same(Transformer, sentences(3, 4, 3), lengths, backend)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (0, 2, 3), (2, 17, 5)])
def test_transformer_of_other_sizes(sizes):
    same(Transformer, sentences(*sizes))


def test_padding_changes_nothing():
    torch.manual_seed(3)
    model, given = gn.compile(Transformer().double()), sentences(1, 6, 5)
    lengths = {"source": torch.tensor([4]), "target": torch.tensor([2])}
    padded = model(**given, lengths=lengths)
    cut = model(source=given["source"][:, :4], target=given["target"][:, :2])
    torch.testing.assert_close(padded[:, :2], cut, rtol=1e-12, atol=1e-12)


def test_a_causal_position_sees_nothing_later():
    torch.manual_seed(3)
    model, given = gn.compile(Transformer().double()), sentences(1, 4, 6)
    before = model(**given)
    given["target"][0, 3] += 1
    given["target"] %= 9
    after = model(**given)
    torch.testing.assert_close(before[:, :3], after[:, :3], rtol=0, atol=0)
    assert not torch.equal(before[:, 3], after[:, 3])


class Repeats(nn.Module):
    """A causal transformer that repeats the symbols of a sequence."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(8, 16)
        self.blocks = nn.ModuleList(
            gn.nn.TransformerBlock(
                16, 2, causal=True, norm_first=True, positions=gn.nn.RotaryPositions(8)
            )
            for _ in range(2)
        )
        self.out = nn.Linear(16, 8)

    def graph(self, g):
        x = self.embed(g.input("x", over="time", dtype=torch.int64))
        for block in self.blocks:
            x = block(x)
        g.output("y", self.out(x))


def test_a_transformer_learns_to_repeat():
    """The second half of a sequence repeats the first, which needs attention."""
    torch.manual_seed(0)
    model = gn.compile(Repeats())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        half = torch.randint(8, (32, 6))
        x = torch.cat([half, half], 1)
        scores = model(x=x)[:, 5:-1]
        loss = nn.functional.cross_entropy(scores.flatten(0, 1), half.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.25 * math.log(8)
