"""Random chains of reshapes, slices, joins, flips and strides, in loops and in attention."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F

import graphnn as gn

# the most elements of a value of a chain
MOST = 60


class Chain:
    """Draws operations on the last values of a list; `g` gets the weights."""

    def __init__(self, seed: int, g: gn.Graph):
        self.draw, self.g, self.weights = random.Random(seed), g, 0

    def extend(self, values: list[gn.Value], count: int) -> None:
        """Append the results of so many operations."""
        for _ in range(count):
            x = self.draw.choice(values[-4:])
            other = self.draw.choice(values).reshape(-1)
            made = self.draw.choice(OPERATIONS)(self, x, other)
            values.append(made.reshape(-1)[:MOST] if math.prod(made.shape) > MOST else made)

    def dim(self, x: gn.Value) -> int:
        """One of the dimensions of a value."""
        return self.draw.randrange(len(x.shape))

    def part(self, n: int) -> slice:
        """A part of n elements, one or more."""
        first = self.draw.randrange(n)
        return slice(first, self.draw.randrange(first + 1, n + 1))

    def mapped(self, x: gn.Value, size: int) -> gn.Value:
        """A linear map of all elements of a value."""
        self.weights += 1
        weight = torch.randn(size, math.prod(x.shape)) * 0.5
        return F.linear(x.reshape(-1), self.g.parameter(f"w{self.weights}", weight))


def _along(x: gn.Value, dim: int, places: slice) -> gn.Value:
    return x[(*[slice(None)] * dim, places)]


def _reshaped(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    n = math.prod(x.shape)
    rows = c.draw.choice([d for d in range(1, n + 1) if n % d == 0])
    return x.reshape(rows, n // rows)


def _sliced(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    x = x if x.shape else x.reshape(1)
    return _along(x, dim := c.dim(x), c.part(x.shape[dim]))


def _cut(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    return x.reshape(-1)[c.part(math.prod(x.shape))]


def _strided(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    x = x if x.shape else x.reshape(1)
    dim = c.dim(x)
    return _along(x, dim, slice(c.draw.randrange(x.shape[dim]), None, c.draw.choice([2, 3])))


def _joined(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    parts = [x.reshape(-1), other]
    c.draw.shuffle(parts)
    return torch.cat(parts)


def _added(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    n = min(math.prod(x.shape), other.shape[0])
    return x.reshape(-1)[-n:] * other[:n] + other[-n:]


def _permuted(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    order = list(range(len(x.shape)))
    c.draw.shuffle(order)
    return x.permute(*order) if order else x


def _outer(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
    return torch.outer(x.reshape(-1)[:5], other[:4])


def _of_dim(function: Callable[[gn.Value, int], gn.Value]) -> Callable[..., gn.Value]:
    def made(c: Chain, x: gn.Value, other: gn.Value) -> gn.Value:
        x = x if x.shape else x.reshape(1)
        return function(x, c.dim(x))

    return made


OPERATIONS: Sequence[Callable[[Chain, gn.Value, gn.Value], gn.Value]] = (
    *(_reshaped, _sliced, _cut, _cut, _strided, _joined, _added, _permuted, _outer, _outer),
    _of_dim(lambda x, dim: torch.flip(x, [dim])),
    _of_dim(lambda x, dim: torch.roll(x, 1, dim)),
    _of_dim(lambda x, dim: torch.stack([x, x * 0.5], dim)),
    _of_dim(lambda x, dim: torch.cat([x, x], dim)),
    _of_dim(lambda x, dim: torch.chunk(x, 2, dim)[-1]),
    _of_dim(lambda x, dim: x.sum(dim)),
    _of_dim(lambda x, dim: x.amax(dim)),
    _of_dim(lambda x, dim: torch.softmax(x, dim)),
    lambda c, x, other: x[-1] if x.shape else x,
    lambda c, x, other: c.mapped(x, c.draw.randrange(1, 7)),
    lambda c, x, other: torch.tanh(x),
)


def loop(seed: int) -> gn.Graph:
    """A loop of two states, computed through a chain of operations."""
    torch.manual_seed(seed)
    g = gn.Graph("g")
    c = Chain(seed, g)
    first, second = c.draw.randrange(1, 7), c.draw.choice([2, 3, 5, 17])
    x = g.input("x", (3,), over="time")
    a, b = g.state("a", (first,)), g.state("b", (second,), delay=c.draw.choice([1, 2]))
    values = [x, a, b]
    c.extend(values, c.draw.randrange(2, 8))
    a.next = torch.tanh(c.mapped(values[-1], first) + c.mapped(c.draw.choice(values), first))
    b.next = torch.sin(c.mapped(values[-1], second))
    g.output("y", values[-1].reshape(-1))
    g.output("a", a.next)
    return g


def attention(seed: int) -> gn.Graph:
    """Attention whose scores come from a chain of operations on queries and keys."""
    torch.manual_seed(seed)
    g = gn.Graph("g")
    c = Chain(seed, g)
    q = g.input("q", (c.draw.randrange(1, 6),), over="target")
    k = g.input("k", (c.draw.randrange(1, 6),), over="source")
    values = [q, k, torch.outer(q, k)]
    c.extend(values, c.draw.randrange(1, 4))
    score = c.mapped(torch.tanh(values[-1]), 1)[0] + c.mapped(torch.outer(q, k), 1)[0]
    weights = gn.softmax(score, over="source")
    g.output("y", gn.sum(weights * k, over="source"))
    return g
