"""Random graphs: recipes for hypothesis to draw and shrink, and the module that builds a graph.

A recipe is plain data. A reference to an earlier value is a number, taken modulo the number of
values. Any recipe is therefore a valid graph, also after shrinking. All values stay small (tanh,
sigmoid, means), so that backends can be compared up to rounding.
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
from tests.networks.recipe_repr import short_repr

AXES = ("time", "source", "slot")
SLOTS = 3
WORDS = 5


@dataclass(frozen=True)
class Step:
    """One operation: `a` and `b` choose operands, `k` a width, an axis or a variant."""

    op: str
    a: int = 0
    b: int = 0
    k: int = 0


@dataclass(frozen=True)
class Memory:
    """A state. `width` 0: shape (); `along`: further axes; `close` chooses its next value."""

    width: int = 1
    delay: int = 1
    along: tuple[str, ...] = ()
    init: str = "zero"
    close: int = 0


@dataclass(frozen=True)
class Section:
    """Steps that run in order; with states they are a loop over `axis` (`ahead`: from its end)."""

    axis: str = "time"
    ahead: bool = False
    states: tuple[Memory, ...] = ()
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A graph and the sizes it is called with. `inputs` are (width, axes)."""

    inputs: tuple[tuple[int, tuple[str, ...]], ...]
    sections: tuple[Section, ...]
    outputs: tuple[tuple[int, bool], ...] = ((0, False),)
    batch: int = 2
    sizes: tuple[int, int] = (3, 2)
    ragged: tuple[str, ...] = ()
    given: bool = False

    def __repr__(self) -> str:
        """Only fields that differ from the defaults, so that a falsifying example is readable."""
        return short_repr(self)


class Drawn(nn.Module):
    """The graph of a recipe. Its parameters are made while it is first traced."""

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.unit = nn.Parameter(torch.ones((), dtype=torch.float64))

    def graph(self, g: gn.Graph) -> None:
        _Builder(self.recipe, g).run()


@dataclass
class _Builder:
    recipe: Recipe
    g: gn.Graph
    pool: list[gn.Value] = field(default_factory=list)
    fresh: int = 0

    def run(self) -> None:
        g = self.g
        g.axis("slot", SLOTS)
        words = g.input("words", over="time", dtype=torch.int64)
        table = self.weight(WORDS, 2)
        for k, (width, over) in enumerate(self.recipe.inputs):
            self.pool.append(g.input(f"x{k}", shape=_shape(width), over=over))
        self.pool.append(F.embedding(words, table))
        self.pool.append(gn.along(self.weight(SLOTS, 2), "slot"))
        for n, section in enumerate(self.recipe.sections):
            self.section(n, section)
        for k, (which, last) in enumerate(self.recipe.outputs):
            v = self.pool[-1 - which % len(self.pool)]
            if last and v.axes:
                v = gn.last(v, over=v.axes[0])
            g.output(f"y{k}", v)

    def weight(self, *shape: int) -> gn.Value:
        self.fresh += 1
        seed = torch.Generator().manual_seed(self.fresh)
        start = torch.randn(shape, generator=seed, dtype=torch.float64) * 0.5
        return self.g.parameter(f"w{self.fresh}", start)

    def linear(self, v: gn.Value, width: int) -> gn.Value:
        """A linear map with bias to `width` (0: to shape ())."""
        v = v.reshape(1) if v.ndim == 0 else v
        y = F.linear(v, self.weight(max(width, 1), v.shape[-1]), self.weight(max(width, 1)))
        return y if width else y.reshape(())

    def fit(self, v: gn.Value, like: gn.Value) -> gn.Value:
        """`v` in a shape that broadcasts with `like`."""
        if v.shape == like.shape or not v.shape or not like.shape or v.shape == (1,):
            return v
        return torch.tanh(self.linear(v, like.shape[0]))

    def section(self, n: int, section: Section) -> None:
        before = len(self.pool)
        sign = -1 if section.ahead else 1
        states = []
        for k, memory in enumerate(section.states):
            along = tuple(a for a in memory.along if a != section.axis)
            state = self.g.state(
                f"z{n}{k}",
                shape=_shape(memory.width),
                over=section.axis,
                along=along,
                init=self.init(memory, section.axis, along),
                delay=sign * memory.delay,
            )
            states.append(state)
            self.pool.append(state)
        for step in section.steps:
            self.step(step, section, before)
        for state, memory in zip(states, section.states):
            self.close(state, memory, section, before)

    def init(self, memory: Memory, axis: str, along: tuple[str, ...]) -> Any:
        shape = _shape(memory.width)
        if memory.init == "number":
            return 0.3
        if memory.init == "parameter":
            return self.weight(*shape)
        if memory.init == "slots":
            return [self.weight(*shape) if k % 2 else 0.1 * k for k in range(memory.delay)]
        if memory.init == "computed":
            found = [v for v in self.pool if set(v.axes) <= set(along)]
            v = found[-1] if found else gn.mean(self.pool[0], over=self.pool[0].axes[0])
            for a in v.axes:
                v = v if a in along else gn.mean(v, over=a)
            return torch.tanh(self.linear(v, memory.width))
        if memory.init == "along" and "slot" in along:
            return gn.along(self.weight(SLOTS, *shape), "slot")
        return None

    def close(self, state: gn.State, memory: Memory, section: Section, before: int) -> None:
        found = [v for v in self.pool[before:] if set(v.axes) <= set(state.axes)]
        v = found[-1 - memory.close % len(found)]
        # a value of another loop is allowed: all its axes are those of this state
        if v.shape != state.shape or v is state:
            v = torch.tanh(self.linear(v, memory.width) + 0.5 * state)
        state.next = v
        self.pool.append(state.next)

    def step(self, step: Step, section: Section, before: int) -> None:
        pool = self.pool
        a, b = pool[-1 - step.a % len(pool)], pool[-1 - step.b % len(pool)]
        late = min(step.a % len(pool), step.b % len(pool)) < len(pool) - before
        inside = bool(section.states) and late  # may depend on this loop's states
        if step.op in OVER_AXIS:
            allowed = [x for x in a.axes if not (inside and x == section.axis)]
            if allowed:
                axis = allowed[step.k % len(allowed)]
                pool.append(OVER_AXIS[step.op](self, a, self.fit(b, a), axis, step.k))
            return
        if step.op == "delay":
            # within a loop, a delay over its axis has the loop's direction
            axes = list(a.axes)
            if axes:
                axis = axes[step.k % len(axes)]
                sign = -1 if (section.ahead if inside else step.b % 2) else 1
                init = (None, 0.2, self.weight(*a.shape))[step.b % 3]
                pool.append(gn.delay(a, sign * (1 + step.k % 3), over=axis, init=init))
            return
        if len(set(a.axes) | set(b.axes)) <= 3:
            pool.append(LOCAL[step.op](self, a, self.fit(b, a), step.k))


def _shape(width: int) -> tuple[int, ...]:
    return (width,) if width else ()


def _row(v: gn.Value) -> gn.Value:
    return v if v.ndim else v.reshape(1)


def _gates(p: _Builder, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    width = 1 + k % 3
    u = p.linear(torch.cat([_row(a), _row(b)]), 3 * width)
    i, f, c = u.chunk(3)
    return torch.sigmoid(i) * torch.tanh(c) + 0.3 * torch.sigmoid(f)


def _mix(p: _Builder, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    z = torch.sigmoid(p.linear(a, k % 2 * (a.shape[0] if a.shape else 0)))
    return z * a + (1 - z) * b


def _split(p: _Builder, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    wide = torch.tanh(p.linear(a, 5))
    x, y = wide.split([2, 3]) if k % 2 else (wide[3:], wide[:3])
    return torch.cat([y[1:], x * 0.5, wide[::2]])[: 1 + k % 4]


def _outer(p: _Builder, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    a, b = _row(a), _row(b)
    c = torch.tanh(p.linear(a, 2))
    m = c[:, None] * b[None, :]
    return torch.tanh(m @ b if k % 2 else torch.matmul(c, m))


def _bilinear(p: _Builder, a: gn.Value, b: gn.Value, k: int) -> gn.Value:
    a, b = _row(a), _row(b)
    w = p.weight(2, a.shape[0], b.shape[0])
    return torch.tanh(F.bilinear(a, b, w) if k % 2 else torch.einsum("i,nij->nj", a, w) @ b)


def _rounding_safe(v: gn.Value) -> gn.Value:
    """`v` moved away from the kinks of relu and abs, where rounding would decide the gradient."""
    return v + 0.3713


UNARY: tuple[Callable[[gn.Value], gn.Value], ...] = (
    torch.tanh,
    torch.sigmoid,
    torch.sin,
    lambda v: torch.relu(_rounding_safe(v)) * 0.5,
    lambda v: F.gelu(v),
    lambda v: F.softplus(v) * 0.5,
    lambda v: torch.exp(-v * v),
    lambda v: torch.sqrt(v * v + 0.5),
    lambda v: 1 / (v.abs() + 1) if v.ndim else 1 / (v**2 + 1),
    lambda v: 0.5 - v,
    lambda v: -v,
    lambda v: F.silu(v),
    lambda v: torch.log1p(v * v),
    lambda v: v.clamp(-0.871, 0.613),
    lambda v: 2 ** (-(v**2)),
    lambda v: v.detach() * 0.5 + v * 0.5,
    lambda v: gn.clip_gradient(v, 0.05),
)

LOCAL: dict[str, Callable[[_Builder, gn.Value, gn.Value, int], gn.Value]] = {
    "linear": lambda p, a, b, k: torch.tanh(p.linear(a, k % 4)),
    "two": lambda p, a, b, k: torch.tanh(p.linear(a, 3) + p.linear(b, 3)),
    "joined": lambda p, a, b, k: torch.tanh(p.linear(torch.cat([_row(a), _row(b)]), k % 4)),
    "gates": _gates,
    "mix": _mix,
    "mul": lambda p, a, b, k: a * b,
    "add": lambda p, a, b, k: (a + b) * 0.5,
    "sub": lambda p, a, b, k: (a - b) * 0.5,
    "unary": lambda p, a, b, k: UNARY[k % len(UNARY)](a),
    "norm": lambda p, a, b, k: torch.tanh(
        F.layer_norm(_row(a), _row(a).shape, *([p.weight(*_row(a).shape)] * (k % 2)), eps=0.1)
    ),
    "softmax": lambda p, a, b, k: torch.softmax(_row(a), -1) if k % 2 else _row(a).log_softmax(0),
    "dot": lambda p, a, b, k: torch.tanh(gn.dot(_row(a), _row(p.fit(_row(b), _row(a))) + 0 * a)),
    "split": _split,
    "outer": _outer,
    "bilinear": _bilinear,
    "stack": lambda p, a, b, k: torch.stack([_row(a + b), _row(b + a) * 0.5]).sum(k % 2) * 0.3,
    "where": lambda p, a, b, k: torch.where(a > 0.1234, b, a * 0.5),
    "extremum": lambda p, a, b, k: (torch.maximum if k % 2 else torch.minimum)(a, b - 0.2345),
    "reduce": lambda p, a, b, k: (
        _row(a).mean(),
        _row(a).sum(0, keepdim=True) * 0.3,
        _row(a).logsumexp(0),
        _row(a).var(0, correction=0),
    )[k % 4],
    "views": lambda p, a, b, k: (
        _row(a).flip(0),
        _row(a).roll(1, 0),
        _row(a)[-1],
        _row(a)[None].t()[:, 0],
        _row(a)[..., :2],
    )[k % 5],
    "opaque": lambda p, a, b, k: (
        torch.cumsum(_row(a), 0) * 0.3 if k % 2 else torch.logcumsumexp(_row(a), 0) * 0.3
    ),
    "place": lambda p, a, b, k: (
        torch.tanh(a + 0.1 * gn.index(AXES[k % 2], graph=p.g).to(a.dtype))
        if _known(p, AXES[k % 2])
        else a
    ),
    "long": lambda p, a, b, k: (
        a / (1 + gn.length(AXES[k % 2], graph=p.g)) if _known(p, AXES[k % 2]) else a
    ),
}


def _known(p: _Builder, axis: str) -> bool:
    return any(axis in v.axes for v in p.pool)


def _attend(p: _Builder, a: gn.Value, b: gn.Value, axis: str, k: int) -> gn.Value:
    """Self-attention along the axis with a linear query, causal for odd k."""
    query = p.linear(a, 2)
    mixed = gn.attend(query, _row(p.linear(a, 2)), over=axis, causal=bool(k % 2))
    return torch.tanh(mixed)


def _spread(a: gn.Value, axis: str) -> gn.Value:
    """`a` without ties between positions, for functions that select one of them."""
    return a + 0.0717 * gn.index(axis, graph=a.graph).to(a.dtype)


def _weighted(p: _Builder, a: gn.Value, b: gn.Value, axis: str, k: int) -> gn.Value:
    score = p.linear(torch.tanh(p.linear(a, 2)), 0)
    h = a * b if k % 2 else a
    return torch.tanh(gn.sum(gn.softmax(score, over=axis) * h, over=axis))


Axis = Callable[[_Builder, gn.Value, gn.Value, str, int], gn.Value]
OVER_AXIS: dict[str, Axis] = {
    "axis_sum": lambda p, a, b, axis, k: torch.tanh(gn.sum(a, over=axis)),
    "axis_mean": lambda p, a, b, axis, k: gn.mean(a, over=axis),
    "axis_max": lambda p, a, b, axis, k: gn.max(_spread(a, axis), over=axis),
    "axis_softmax": lambda p, a, b, axis, k: gn.softmax(a, over=axis),
    "axis_last": lambda p, a, b, axis, k: (gn.last if k % 2 else gn.first)(a, over=axis),
    "axis_reverse": lambda p, a, b, axis, k: gn.reverse(a, over=axis),
    "axis_roll": lambda p, a, b, axis, k: gn.roll(a, 1 + k % 3 - 2 * (k % 2), over=axis),
    "weighted": _weighted,
    "attend": _attend,
}

INITS = ("zero", "number", "parameter", "slots", "computed", "along")
OVER = ((), ("time",), ("time", "source"), ("source", "time"), ("source",))

_numbers = st.integers(0, 11)
_steps = st.builds(
    Step, st.sampled_from([*LOCAL, *OVER_AXIS, "delay"]), _numbers, _numbers, _numbers
)
_memories = st.builds(
    Memory,
    width=st.integers(0, 3),
    delay=st.integers(1, 3),
    along=st.sampled_from([(), (), ("slot",), ("source",)]),
    init=st.sampled_from(INITS),
    close=_numbers,
)


def _tuples(items: st.SearchStrategy[Any], low: int, high: int) -> st.SearchStrategy[Any]:
    return st.lists(items, min_size=low, max_size=high).map(tuple)


@st.composite
def recipes(draw: st.DrawFn, most_steps: int = 6) -> Recipe:
    """Recipes with one input over time, others, and one to three sections."""
    inputs = [(draw(st.integers(0, 3)), ("time",))]
    inputs += draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(OVER)), max_size=2))
    axes = sorted({a for _, over in inputs for a in over})

    def section(states: int) -> st.SearchStrategy[Section]:
        return st.builds(
            Section,
            axis=st.sampled_from(axes),
            ahead=st.booleans(),
            states=_tuples(_memories, states, 2 * states),
            steps=_tuples(_steps, 0, most_steps),
        )

    sections = draw(st.lists(section(1), min_size=1, max_size=2))
    sections += draw(st.lists(section(0), max_size=1))
    known = {*axes, "slot"}
    sections = [_within(s, known) for s in sections]
    return Recipe(
        inputs=tuple(inputs),
        sections=tuple(draw(st.permutations(sections))),
        outputs=draw(_tuples(st.tuples(_numbers, st.booleans()), 1, 3)),
        batch=draw(st.sampled_from([2, 1, 3, 0])),
        sizes=(draw(st.integers(1, 6)), draw(st.integers(1, 3))),
        ragged=draw(st.sampled_from([(), ("time",), ("source",), ("time", "source")])),
        given=draw(st.booleans()),
    )


def _within(section: Section, known: set[str]) -> Section:
    """The section, with states that have only axes of the graph."""
    states = tuple(
        Memory(m.width, m.delay, tuple(a for a in m.along if a in known), m.init, m.close)
        for m in section.states
    )
    return Section(section.axis, section.ahead, states, section.steps)


def tensors(recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs and lengths of a call, always the same for a recipe."""
    seed = torch.Generator().manual_seed(7)
    sizes = dict(zip(("time", "source"), recipe.sizes))
    inputs = {"words": torch.randint(0, WORDS, (recipe.batch, sizes["time"]), generator=seed)}
    for k, (width, over) in enumerate(recipe.inputs):
        shape = [recipe.batch, *(sizes[a] for a in over), *_shape(width)]
        x = torch.randn(shape, generator=seed, dtype=torch.float64) * 0.7
        inputs[f"x{k}"] = x.requires_grad_()
    brought = {"time", *(a for _, over in recipe.inputs for a in over)}
    lengths = {
        a: torch.randint(0, sizes[a] + 1, (recipe.batch,), generator=seed)
        for a in recipe.ragged
        if a in brought
    }
    return inputs, lengths
