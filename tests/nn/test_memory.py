"""Associative and key-value memories and the memory network: backends, equations, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphnn as gn
from tests.nn.common import close, compare_backends, doubles, randomised

KEY, VALUE = 4, 3
Memory = gn.nn.AssociativeMemory


class Read(nn.Module):
    """A learned memory that is read at each position."""

    def __init__(self, **options: Any):
        super().__init__()
        self.memory = Memory(5, KEY, VALUE, **options)

    def graph(self, g: gn.Graph) -> None:
        y, weights = self.memory(g.input("x", (KEY,), over="time"), with_weights=True)
        g.output("y", y)
        g.output("weights", weights)


class Write(nn.Module):
    """A memory that is written and read at each position."""

    def __init__(self, slots: int = 3, gated: bool = False, **options: Any):
        super().__init__()
        self.memory, self.gated = Memory(slots, KEY, VALUE, **options), gated
        self.map = nn.Linear(KEY, KEY)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (KEY,), over="time")
        key = g.input("key", (KEY,), over="time")
        value = g.input("value", (VALUE,), over="time")
        write = g.input("write", over="time", dtype=torch.bool) if self.gated else None
        g.output("y", self.memory(self.map(x), key, value, write))


def write_inputs(batch: int = 2, time: int = 6) -> dict[str, Tensor]:
    sizes = {"x": KEY, "key": KEY, "value": VALUE}
    return {k: doubles(batch, time, n, seed=s) for s, (k, n) in enumerate(sizes.items())}


@pytest.mark.parametrize("options", [{}, {"topk": 2}, {"sharpness": 3.0}], ids=str)
@pytest.mark.parametrize("lengths", [None, {"time": torch.tensor([4, 0, 2])}])
def test_learned_slots(options: Any, lengths: Any) -> None:
    net, x = randomised(Read(**options)), doubles(3, 4, KEY)
    found = compare_backends(net, lengths, x=x)
    if lengths is None:
        match = x @ net.memory.keys.T * options.get("sharpness", 1.0)
        if "topk" in options:
            low = match.topk(2).values[..., -1:]
            match = match.masked_fill(match < low, -torch.inf)
        c = torch.softmax(match, -1)
        close({"y": found["y"]}, {"y": c @ net.memory.values}, 1e-12)
        close({"w": found["weights"]}, {"w": c}, 1e-12)


def test_only_the_topk_slots_get_gradients() -> None:
    net = randomised(Read(topk=1))
    gn.compile(net)(x=doubles(1, 1, KEY))["y"].sum().backward()
    assert (net.memory.values.grad.abs().sum(1) > 0).sum() == 1


@pytest.mark.parametrize("learned", [False, True], ids=["empty", "learned"])
@pytest.mark.parametrize("gated", [False, True], ids=["always", "gated"])
@pytest.mark.parametrize("lengths", [None, {"time": torch.tensor([6, 1])}])
def test_written_slots(learned: bool, gated: bool, lengths: Any) -> None:
    net = randomised(Write(gated=gated, learned=learned))
    inputs = write_inputs()
    if gated:
        inputs["write"] = torch.rand(2, 6, generator=torch.Generator().manual_seed(1)) > 0.4
    found = compare_backends(net, lengths, **inputs)
    if lengths is None:
        close({"y": found["y"]}, {"y": last_pairs(net, inputs, learned)}, 1e-12)


def last_pairs(net: Any, inputs: dict[str, Tensor], learned: bool) -> Tensor:
    """The reference: a list of pairs, of which the last three are looked up."""
    out = torch.zeros(2, 6, VALUE, dtype=torch.float64)
    start = list(zip(net.memory.keys, net.memory.values)) if learned else []
    for b in range(2):
        pairs = list(start)
        for t in range(6):
            if pairs:
                keys, values = (torch.stack(v) for v in zip(*pairs))
                c = torch.softmax(keys @ net.map(inputs["x"][b, t]), 0)
                out[b, t] = c @ values
            if "write" not in inputs or inputs["write"][b, t]:
                pairs = [*pairs, (inputs["key"][b, t], inputs["value"][b, t])][-3:]
    return out


@pytest.mark.parametrize("batch, time", [(1, 1), (0, 3), (3, 1)])
def test_one_position_or_an_empty_batch(batch: int, time: int) -> None:
    compare_backends(randomised(Write(learned=False)), **write_inputs(batch, time))


def test_a_written_memory_streams() -> None:
    model, inputs = gn.compile(randomised(Write(learned=False))), write_inputs()
    state, steps = model.initial_state(2), []
    for t in range(6):
        y, state = model.step(state, **{k: v[:, t] for k, v in inputs.items()})
        steps.append(y)
    close({"y": torch.stack(steps, 1)}, {"y": model(**inputs)}, 1e-12)


class Controller(nn.Module):
    """A memory inside the loop of its controller: what is read determines what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory(3, KEY, VALUE, learned=False, topk=2)
        self.cell, self.emit = nn.GRUCell(2 + VALUE, 5), nn.Linear(5, KEY + KEY + VALUE)

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (2,), over="time"), g.state("h", (5,))
        address, key, value = self.emit(h).split([KEY, KEY, VALUE])
        read = self.memory(address, key, value, over="time")
        h.next = self.cell(torch.cat([x, read]), h)
        g.output("h", h.next)


@pytest.mark.parametrize("lengths", [None, {"time": torch.tensor([5, 2])}])
def test_a_memory_in_the_loop_of_its_controller(lengths: Any) -> None:
    compare_backends(randomised(Controller()), lengths, x=doubles(2, 5, 2))


class KeyValue(nn.Module):
    """A key-value memory over facts."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = gn.nn.KeyValueMemory(KEY, hops=2)

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (KEY,))
        k, v = g.input("k", (KEY,), over="fact"), g.input("v", (KEY,), over="fact")
        g.output("y", self.memory(q, k, v))


@pytest.mark.parametrize("lengths", [None, {"fact": torch.tensor([4, 0, 2])}])
def test_key_value_memory(lengths: Any) -> None:
    net = randomised(KeyValue())
    q, k, v = doubles(3, KEY), doubles(3, 4, KEY, seed=1), doubles(3, 4, KEY, seed=2)
    y = compare_backends(net, lengths, q=q, k=k, v=v)["y"]
    if lengths is None:
        for map in net.memory.maps:
            c = torch.softmax(torch.einsum("bnd,bd->bn", k, q), -1)
            q = map(q + torch.einsum("bn,bnd->bd", c, v))
        close({"y": y}, {"y": q}, 1e-12)


WORDS = 9


class Story(nn.Module):
    """A memory network that also outputs the attention weights of its hops."""

    def __init__(self, **options: Any):
        super().__init__()
        self.memory = gn.nn.MemoryNetwork(WORDS, 4, 2, capacity=6, **options)

    def graph(self, g: gn.Graph) -> None:
        story = g.input("story", over=("sentence", "word"), dtype=torch.int64)
        question = g.input("question", over="query", dtype=torch.int64)
        y, weights = self.memory(story, question, with_weights=True)
        g.output("y", y)
        for k, w in enumerate(weights):
            g.output(f"hop{k}", w)


def story(batch: int = 3) -> dict[str, Tensor]:
    """Returns ids of words, with nulls at the end of sentences."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(1, WORDS, (batch, 5, 4), generator=generator)
    ends = torch.randint(1, 5, (batch, 5, 1), generator=generator)
    question = torch.randint(0, WORDS, (batch, 3), generator=generator)
    return {"story": words * (torch.arange(4) < ends), "question": question}


OPTIONS: dict[str, dict[str, Any]] = {
    "adjacent": {},
    "layer": {"tying": "layer"},
    "bag": {"encoding": "bag"},
    "no_time": {"temporal": False},
    "filled": {"spare": False},
    "linear": {"linear": True},
    "noise": {"noise": 0.4},
}
SENTENCES = {"sentence": torch.tensor([5, 1, 3])}


@pytest.mark.parametrize("lengths", [None, SENTENCES], ids=["even", "ragged"])
@pytest.mark.parametrize("name", OPTIONS)
def test_memory_network(name: str, lengths: Any) -> None:
    compare_backends(randomised(Story(**OPTIONS[name])), lengths, seed=1, **story())


@pytest.mark.parametrize("spare", [False, True])
def test_memory_network_equals_its_equations(spare: bool) -> None:
    net, inputs = randomised(Story(spare=spare)), story()
    found = gn.compile(net)(**inputs, lengths=SENTENCES)
    memory, d = net.memory, 4

    def encoded(words: Tensor, table: int) -> Tensor:
        total = torch.zeros(d, dtype=torch.float64)
        count = int((words != 0).sum())
        for j, word in enumerate(words.tolist(), start=1):
            for k in range(1, d + 1):
                weight = 1 + 4 * (j - (count + 1) / 2) * (k - (d + 1) / 2) / (count * d)
                unit = F.one_hot(torch.tensor(k - 1), d).double() * (word != 0)
                total = total + weight * unit * memory.embed[word, table]
        return total

    for b, n in enumerate(SENTENCES["sentence"].tolist()):
        u = encoded(inputs["question"][b], 0)
        for hop in range(2):
            rows = [
                torch.stack([encoded(s, k) for s in inputs["story"][b, :n]])
                + memory.ages[:n, k].flip(0)
                for k in (hop, hop + 1)
            ]
            # a slot without a sentence has the match 0
            p = torch.softmax(torch.cat([rows[0] @ u, u.new_zeros(6 - n if spare else 0)]), 0)[:n]
            u = u + p @ rows[1]
            close({"p": found[f"hop{hop}"][b, :n]}, {"p": p}, 1e-12)
        close({"y": found["y"][b]}, {"y": memory.embed[:, 2] @ u}, 1e-12)


def test_the_linear_start_can_be_switched_off() -> None:
    net = randomised(Story())
    model, inputs = gn.compile(net), story()
    net.memory.linear = True
    linear = model(**inputs)
    net.memory.linear = False
    soft = model(**inputs)
    assert soft["hop0"].ge(0).all() and linear["hop0"].lt(0).any()
    close({"y": soft["y"]}, {"y": gn.compile(net)(**inputs)["y"]}, 1e-15)


def test_noise_moves_sentences_in_training_only() -> None:
    net, inputs = randomised(Story(noise=0.5)), story()
    model = gn.compile(net)
    assert not torch.equal(model(**inputs)["y"], model(**inputs)["y"])
    model.eval()
    assert torch.equal(model(**inputs)["y"], model(**inputs)["y"])


def test_errors() -> None:
    with pytest.raises(gn.errors.UnsupportedError, match="needs both a key and a value"):
        gn.compile(Read(learned=False))
    with pytest.raises(gn.errors.UnsupportedError, match="no tying 'both'"):
        Story(tying="both")

    class Flat(Story):
        def graph(self, g: gn.Graph) -> None:
            story = g.input("story", over="word", dtype=torch.int64)
            g.output("y", self.memory(story, story, over="word"))

    with pytest.raises(gn.errors.AxisError, match="sentences and their words"):
        gn.compile(Flat())
