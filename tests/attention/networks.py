"""Softmaxes over an axis and the sums that they weight, in all ways a user may write them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import graphnn as gn

WIDTH = 8


class Net(nn.Module):
    """Maps a query over `target` and a key over `source`, scores them, and mixes the keys."""

    def __init__(self, width: int = WIDTH, inner: int = WIDTH):
        super().__init__()
        self.width = width
        self.query, self.key = nn.Linear(width, inner), nn.Linear(width, inner)
        self.value = nn.Linear(width, width)

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (self.width,), over="target")
        k = g.input("k", (self.width,), over="source")
        g.output("y", self.mixed(q, k))

    def mixed(self, q: gn.Value, k: gn.Value) -> gn.Value:
        weights = gn.softmax(self.score(self.query(q), self.key(k)), over="source")
        return gn.sum(weights * self.value(k), over="source")

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return gn.dot(q, k) * WIDTH**-0.5


class Additive(Net):
    """Bahdanau et al. 2015."""

    def __init__(self, width: int = WIDTH, inner: int = WIDTH):
        super().__init__(width, inner)
        self.v = nn.Linear(inner, 1)

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return self.v(torch.tanh(q + k))


class Distance(Net):
    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return -((q - k) ** 2).sum(-1)


class Cosine(Net):
    """Scores with a sharpness per query."""

    def __init__(self) -> None:
        super().__init__()
        self.sharp = nn.Linear(WIDTH, 1)

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return gn.cosine(q, k) * nn.functional.softplus(self.sharp(q))


class Bilinear(Net):
    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Bilinear(WIDTH, WIDTH, 1)

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return self.form(q, k)


class Perceptron(Net):
    """A score of two layers over both."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2 * WIDTH, 6), nn.Linear(6, 5)
        self.last = nn.Linear(5, 1)

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        h = torch.relu(self.first(torch.cat([q, k])))
        return self.last(torch.tanh(self.second(h)))


class Capped(Net):
    """A soft cap, a slope by distance (ALiBi) and a window, which is empty for some queries."""

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        ahead = gn.index("target") - gn.index("source")
        score = torch.tanh(gn.dot(q, k) / 5) * 5 - 0.1 * ahead.to(q.dtype)
        return torch.where((ahead > 0) & (ahead < 4), score, float("-inf"))


class Masked(Net):
    """A mask from the caller, for each query and key."""

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (self.width,), over="target")
        k = g.input("k", (self.width,), over="source")
        self.allowed = g.input("allowed", over=("target", "source"), dtype=torch.bool)
        g.output("y", self.mixed(q, k))

    def score(self, q: gn.Value, k: gn.Value) -> gn.Value:
        return torch.where(self.allowed, gn.dot(q, k), float("-inf"))


class Spread(Net):
    """One softmax, three sums, the last of which needs the first; weights are an output too."""

    def mixed(self, q: gn.Value, k: gn.Value) -> gn.Value:
        weights = gn.softmax(self.score(self.query(q), self.key(k)), over="source")
        first = gn.sum(weights * k, over="source")
        second = gn.sum(weights * self.value(k)[:3], over="source")
        third = gn.sum(weights * torch.tanh(gn.dot(first, k)), over="source")
        return torch.cat([first, second, third[None], gn.sum(weights * weights, "source")[None]])


class Heads(nn.Module):
    """Self-attention of several heads, causal."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Linear(WIDTH, 3 * WIDTH)

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        q, k, v = self.maps(x).chunk(3)
        g.output("y", gn.attend(q, k, v, over="time", heads=2, causal=True))


class Grouped(nn.Module):
    """Two queries per key (Ainslie et al. 2023), with learned biases by distance."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, 2 * WIDTH)
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn(7, 4))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (WIDTH,), over="time")
        past = gn.rename(x, time="past")
        q = self.query(x).reshape(2, 2, 4)
        k, v = self.key(past).reshape(2, 4), self.value(past).reshape(2, 1, 4)
        far = torch.clamp(gn.index("time") - gn.index("past"), -3, 3) + 3
        bias = nn.functional.embedding(far, self.bias).reshape(2, 2)
        weights = gn.softmax(torch.einsum("grd,gd->gr", q, k) + bias, over="past")
        g.output("y", gn.sum(weights.unsqueeze(-1) * v, over="past").reshape(-1))


class Slots(nn.Module):
    """Few queries over trainable slots."""

    def __init__(self, slots: int = 50):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(slots, WIDTH))
        self.values = nn.Parameter(torch.randn(slots, WIDTH))

    def graph(self, g: gn.Graph) -> None:
        q = g.input("q", (WIDTH,))
        g.axis("slot", len(self.keys))
        keys, values = gn.along(self.keys, "slot"), gn.along(self.values, "slot")
        g.output("y", gn.lookup(q, keys, values, over="slot"))


class Story(nn.Module):
    """Hops over a memory, one per example."""

    def __init__(self) -> None:
        super().__init__()
        self.next = nn.Linear(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        u = g.input("q", (WIDTH,))
        m, c = (g.input(name, (WIDTH,), over="source") for name in "mc")
        for _ in range(2):
            u = self.next(u) + gn.lookup(u, m, c, over="source")
        g.output("y", u)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "dot": Net,
    "additive": Additive,
    "distance": Distance,
    "cosine": Cosine,
    "bilinear": Bilinear,
    "perceptron": Perceptron,
    "capped": Capped,
    "masked": Masked,
    "spread": Spread,
    "heads": Heads,
    "grouped": Grouped,
    "slots": Slots,
    "story": Story,
    "additive, odd": lambda: Additive(5, 3),
    "dot, wide": lambda: Net(100, 130),
    "additive, wide": lambda: Additive(70, 300),
}


def inputs(
    model: gn.Compiled, batch: int, queries: int, keys: int, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Random inputs for a network of this module, floats with gradients."""
    made = torch.Generator().manual_seed(3)
    sizes = {"target": queries, "source": keys, "time": max(queries, keys)}
    found = {}
    for node in model.ir:
        if node.op == "input":
            shape = (batch, *(sizes[a] for a in node.attrs["over"]), *node.shape)
            x = torch.randn(shape, generator=made, dtype=torch.float64)
            floats = node.dtype.is_floating_point
            found[node.attrs["key"]] = x.to(dtype).requires_grad_() if floats else x > 0
    return found


def ragged(model: gn.Compiled, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lengths for every axis of the inputs, including zero and the full length."""
    made = torch.Generator().manual_seed(4)
    lengths = {}
    for node in model.ir:
        if node.op == "input":
            x = given[node.attrs["key"]]
            for d, axis in enumerate(node.attrs["over"]):
                size = x.shape[d + 1]
                n = torch.randint(0, size + 1, (len(x),), generator=made)
                n[:1], n[1:2] = size, 0
                lengths.setdefault(axis, n)
    return lengths
