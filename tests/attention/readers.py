"""Softmaxes whose weights are read by more than weighted sums, as a user may write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

import graphnn as gn
from tests.attention.networks import WIDTH, Additive, Net


class Read(Net):
    """Attention, and what `read` computes from its weights."""

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (self.width,), over="target")
        k = g.input("k", (self.width,), over="source")
        s = self.score(self.query(q), self.key(k))
        w = gn.softmax(s, over="source")
        g.output("y", gn.sum(w * self.value(k), over="source"))
        for name, v in self.read(w, s, k).items():
            g.output(name, v)

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {"entropy": gn.entropy(w, over="source")}


class Added(Read, Additive):
    """The same for additive attention."""


class Coverage(Added):
    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {"coverage": gn.sum(w, over="target")}


class Largest(Added):
    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {"best": gn.max(w, over="source"), "where": gn.argmax(w, over="source")}


class LargestScore(Added):
    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {
            "best": gn.max(w * s, over="source"),
            "asked": gn.max(w, over="target"),
            "who": gn.argmax(w, over="target"),
        }


class Masked(Added):
    """Some queries have nothing to attend to."""

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        ahead = gn.index("target") - gn.index("source")
        return torch.where((ahead > 0) & (ahead < 4), super().score(q, k), float("-inf"))

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {
            "entropy": gn.entropy(w, over="source"),
            "coverage": gn.sum(w, over="target"),
            "best": gn.max(w, over="source"),
            "where": gn.argmax(w, over="source"),
        }


class Naive(Added):
    """Σ w log w, written literally."""

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {"entropy": -gn.sum(w * torch.log(w), over="source")}


class Forms(Added):
    """Entropy from the scores and their logsumexp; another logsumexp; sums of vectors."""

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {
            "again": gn.logsumexp(s, over="source") - gn.sum(w * s, over="source"),
            "squares": gn.sum(w * w * k, over="source"),
            "sharp": gn.logsumexp(3 * w, over="source"),
            "heard": gn.sum(w.square() * k, over="target"),
        }


class Scores(Added):
    """Reductions of the scores alone: their logsumexp and maximum."""

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {
            "z": gn.logsumexp(s, over="source").square(),
            "best": gn.max(s, over="source"),
            "where": gn.argmax(s, over="source"),
            "asked": gn.sum(s.sigmoid(), over="target"),
        }


class Waiting(Added):
    """A reduction that needs another one: how far weights are from uniform."""

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        squares = gn.sum(w * w, over="source")
        return {
            "far": gn.sum((w - squares).abs() ** 1.5, over="source"),
            "kept": gn.sum(torch.minimum(w, gn.sum(w, over="target") / 3), over="source"),
        }


class Alone(Added):
    """Weights that no sum uses."""

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (self.width,), over="target")
        k = g.input("k", (self.width,), over="source")
        w = gn.softmax(self.score(self.query(q), self.key(k)), over="source")
        g.output("entropy", gn.entropy(w, over="source"))
        g.output("coverage", gn.sum(w, over="target"))


class Rows(Added):
    """The weights of chosen queries."""

    def read(self, w: gn.Value, s: gn.Value, k: gn.Value) -> dict[str, gn.Value]:
        return {
            "last": gn.last(w, over="target"),
            "first": gn.first(torch.where(w > 0.1, w, 0.0), over="target"),
        }


class Beams(Added):
    """Queries over two axes: a reduction over one of them still varies over the other."""

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (self.width,), over=("target", "time"))
        k = g.input("k", (self.width,), over="source")
        w = gn.softmax(self.score(self.query(q), self.key(k)), over="source")
        g.output("y", gn.sum(w * k, over="source"))
        g.output("coverage", gn.sum(w, over="target"))
        g.output("asked", gn.max(w * w, over="time"))
        g.output("entropy", gn.entropy(w, over="source"))


class Memory(nn.Module):
    """Slots that all examples share, and how much weight each example gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.randn(20, WIDTH))
        self.values = nn.Parameter(torch.randn(20, WIDTH))

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (WIDTH,), over="time")
        g.axis("slot", 20)
        keys, values = gn.along(self.keys, "slot"), gn.along(self.values, "slot")
        w = gn.softmax(gn.dot(q, keys), over="slot")
        g.output("y", gn.sum(w * values, over="slot"))
        g.output("used", gn.sum(w, over="time"))
        g.output("where", gn.argmax(w, over="slot"))


class Heads(nn.Module):
    """Causal self-attention of two heads: entropy, weight per position, a mean over heads."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Linear(WIDTH, 3 * WIDTH)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        q, k, v = self.maps(x).chunk(3)
        y, w = gn.attend(q, k, v, over="time", heads=2, causal=True, with_weights=True)
        g.output("y", y)
        g.output("entropy", gn.entropy(w, over="time_key"))
        g.output("got", gn.sum(w, over="time"))
        g.output("equal", gn.sum(w.square().mean(0), over="time_key"))


class Grouped(nn.Module):
    """Two queries per key: weights that are reshaped before they are read."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        q, k = self.query(x), self.key(x)
        y, w = gn.attend(q, k, k, over="time", heads=4, kv_heads=2, causal=True, with_weights=True)
        g.output("y", y)
        g.output("entropy", gn.entropy(w, over="time_key"))
        g.output("where", gn.argmax(w, over="time_key"))
        g.output("got", gn.sum(w.mean(0), over="time"))


READERS: dict[str, Callable[[], nn.Module]] = {
    "entropy": Read,
    "additive": Added,
    "coverage": Coverage,
    "largest": Largest,
    "largest score": LargestScore,
    "masked": Masked,
    "naive": Naive,
    "forms": Forms,
    "scores": Scores,
    "waiting": Waiting,
    "alone": Alone,
    "rows": Rows,
    "beams": Beams,
    "memory": Memory,
    "heads": Heads,
    "grouped": Grouped,
}
