"""Random cells: one loop over time with odd widths, of operations that kernels support.

As in `tests.networks.graphs`, a recipe is plain data, and its references are taken modulo the
number of values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

import graphnn as gn
from tests.networks.equality import numbers
from tests.networks.graphs import UNARY, Step

WIDTHS, BATCHES = (8, 1, 3, 20, 33, 64), (3, 1, 17)


@dataclass(frozen=True)
class Carried:
    """A state of full width, or of a third of it; `init` chooses its initial value."""

    narrow: bool = False
    delay: int = 1
    init: int = 0
    close: int = 0


@dataclass(frozen=True)
class CellRecipe:
    """A loop's states and steps, and the sizes it is called with."""

    states: tuple[Carried, ...]
    steps: tuple[Step, ...]
    width: int = 8
    batch: int = 3
    time: int = 2
    ragged: bool = False
    ahead: bool = False
    given: bool = False


class RandomCell(nn.Module):
    """The graph of a recipe. Its parameters are made while it is first traced."""

    def __init__(self, recipe: CellRecipe):
        super().__init__()
        self.recipe = recipe
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        """Trace the cell."""
        Drawing(self.recipe, g).run()


@dataclass
class Drawing:
    """A cell during its trace; `pool` are the values so far, of which the last is used first."""

    recipe: CellRecipe
    g: gn.Graph
    pool: list[gn.Value] = field(default_factory=list)
    fresh: int = 0

    def run(self) -> None:
        width = self.recipe.width
        self.pool.append(self.g.input("x", (width,), over="time"))
        begin = self.g.input("begin", (width,))
        states = [self.state(k, c, begin) for k, c in enumerate(self.recipe.states)]
        self.pool += states
        for step in self.recipe.steps:
            a, b = (self.pool[-1 - k % len(self.pool)] for k in (step.a, step.b))
            self.pool.append(OPERATIONS[step.op](self, a, b, step.k))
        for state, carried in zip(states, self.recipe.states, strict=True):
            self.close(state, carried)
        self.g.output("y", self.pool[-1])

    def state(self, k: int, carried: Carried, begin: gn.Value) -> gn.State:
        width = -(-self.recipe.width // 3) if carried.narrow else self.recipe.width
        start = begin[:width]
        slots = [self.weight(width), 0.2, start][: carried.delay]
        init = (None, 0.3, self.weight(width), start, slots)[carried.init % 5]
        delay = -carried.delay if self.recipe.ahead else carried.delay
        return self.g.state(f"z{k}", (width,), init=init, delay=delay)

    def close(self, state: gn.State, carried: Carried) -> None:
        v = self.pool[-1 - carried.close % len(self.pool)]
        if v.shape != state.shape or v is state or v.axes != state.axes:
            v = torch.tanh(self.linear(v, state.shape[0]) + 0.5 * state)
        state.next = v
        self.pool.append(state.next)

    def weight(self, *shape: int) -> gn.Value:
        self.fresh += 1
        start = numbers(torch.empty(shape), self.fresh) * 0.7 / max(1, shape[-1]) ** 0.5
        return self.g.parameter(f"w{self.fresh}", start)

    def linear(self, v: gn.Value, width: int) -> gn.Value:
        return F.linear(v, self.weight(width, v.shape[-1]), self.weight(width))

    def fit(self, v: gn.Value, like: gn.Value) -> gn.Value:
        """`v` with the width of another value, by a linear map if they differ."""
        if v.shape == like.shape or 1 in (v.shape[0], like.shape[0]):
            return v
        return torch.tanh(self.linear(v, like.shape[0]))


def _gates(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    u = d.linear(torch.cat([a, b]), 3 * d.recipe.width)
    i, f, c = u.chunk(3) if k % 2 else u.split(d.recipe.width)
    return torch.sigmoid(i) * torch.tanh(c) + 0.3 * torch.sigmoid(f)


def _swapped(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    """Pieces of two values, concatenated in reverse order."""
    cut = 1 + k % a.shape[0]
    return torch.cat([a[cut:], b[: 1 + k % 5], a[:cut] * 0.5])[: d.recipe.width]


def _stack(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    b = d.fit(b, a)
    return torch.stack([a + b, torch.tanh(a - b)]).sum(0) * 0.4


def _dot(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    b = d.fit(b, a)
    return torch.tanh(gn.dot(a + 0 * b, b + 0 * a))[None]


def _matrix(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    """A small matrix times a vector, both different for each example."""
    m, v = d.linear(a, 6).reshape(3, 2), torch.tanh(d.linear(b, 2))
    return torch.tanh((m @ v, v @ m.t(), (m[0] * v), (m * v).sum(k % 2))[k % 4])


def _bilinear(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    a, b = a[:3], b[:4]
    w = d.weight(5, a.shape[0], b.shape[0])
    return torch.tanh(F.bilinear(a, b, w) if k % 2 else torch.einsum("i,nij->nj", a, w) @ b)


def _scored(d: Drawing, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    """Rows that differ by example, weighted by a softmax."""
    rows = torch.stack([a, a * 0.5, a.flip(0)])
    weights = torch.softmax(d.linear(b, 3), -1)
    return (weights[:, None] * rows).sum(0)


Operation = Callable[[Drawing, gn.Value, gn.Value, int], gn.Value]
OPERATIONS: dict[str, Operation] = {
    "linear": lambda d, a, b, k: torch.tanh(d.linear(a, d.recipe.width)),
    "gates": _gates,
    "add": lambda d, a, b, k: (a + d.fit(b, a)) * 0.5,
    "mul": lambda d, a, b, k: a * d.fit(b, a),
    "mix": lambda d, a, b, k: torch.lerp(a, d.fit(b, a) + 0 * a, torch.sigmoid(a)),
    "unary": lambda d, a, b, k: UNARY[k % len(UNARY)](a),
    "where": lambda d, a, b, k: torch.where(a > 0.1234, d.fit(b, a), a * 0.5),
    "extremum": lambda d, a, b, k: (torch.maximum if k % 2 else torch.minimum)(
        a, d.fit(b, a) - 0.2345
    ),
    "swapped": _swapped,
    "slice": lambda d, a, b, k: a[k % 2 :: 1 + k % 3][: d.recipe.width] if len(a) > 1 else a,
    "roll": lambda d, a, b, k: (a.roll(1 + k % 3, 0), a.flip(0), a[None].t()[:, 0])[k % 3],
    "stack": _stack,
    "softmax": lambda d, a, b, k: torch.softmax(a, -1) if k % 2 else a.log_softmax(0) * 0.2,
    "reduce": lambda d, a, b, k: (a.mean(0), a.amax(0), a.logsumexp(0) * 0.2)[k % 3][None],
    "spread": lambda d, a, b, k: a.var(0, correction=0)[None] + a * 0.3,
    "norm": lambda d, a, b, k: torch.tanh(
        F.layer_norm(a, a.shape, *([d.weight(*a.shape)] * (k % 2)), eps=0.1)
    ),
    "dot": _dot,
    "matrix": _matrix,
    "bilinear": _bilinear,
    "scored": _scored,
    "delay": lambda d, a, b, k: gn.delay(
        a, (-1 if d.recipe.ahead else 1) * (1 + k % 3), over="time", init=(None, 0.2)[k % 2]
    ),
    "place": lambda d, a, b, k: torch.tanh(a + 0.1 * gn.index("time", graph=d.g).to(a.dtype)),
}


def cells(most_steps: int = 6) -> st.SearchStrategy[CellRecipe]:
    """Recipes for hypothesis to draw."""
    number = st.integers(0, 11)
    step = st.builds(Step, st.sampled_from(list(OPERATIONS)), number, number, number)
    carried = st.builds(Carried, st.booleans(), st.integers(1, 3), number, number)
    return st.builds(
        CellRecipe,
        st.lists(carried, min_size=1, max_size=3).map(tuple),
        st.lists(step, min_size=1, max_size=most_steps).map(tuple),
        st.sampled_from(WIDTHS),
        st.sampled_from(BATCHES),
        st.integers(1, 4),
        *[st.booleans()] * 3,
    )


def tensors(recipe: CellRecipe) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inputs and lengths of a call, always the same for a recipe."""
    sizes = recipe.batch, recipe.time, recipe.width
    given = {"x": numbers(torch.empty(sizes), 7), "begin": numbers(torch.empty(sizes[::2]), 8)}
    counts = [recipe.time - k % (recipe.time + 1) for k in range(recipe.batch)]
    lengths = {"time": torch.tensor(counts)} if recipe.ragged else {}
    return {k: (v * 0.7).requires_grad_() for k, v in given.items()}, lengths
