"""The lines of a program. Each has two versions: in a graph, and on one example's tensors.

`draw(net, g, values)` returns a value of the graph. `eager(at, place)` returns the tensor of one
example at one position in plain torch; `at` returns those of earlier lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import graphnn as gn
from tests.fuzz.along import OVER
from tests.fuzz.code import CODE, MODES, PLACES
from tests.fuzz.recipe import Op

Place = dict[str, int]


@dataclass(frozen=True)
class Form:
    """The signature of a line's value; `loops` are the open loops whose states it reads."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: frozenset[str] = frozenset()
    loops: frozenset[int] = frozenset()


def run(lab: Any, ops: tuple[Op, ...], out: int, tame: bool, args: list[Any]) -> Any:
    """The result of a block's code, on values or on tensors."""
    found = list(args)
    for op in ops:
        found.extend(step(lab, op, found))
    y = found[-1 - out % (len(found) - len(args))]
    return torch.tanh(y) if tame and y.dtype.is_floating_point else y


def step(lab: Any, op: Op, found: list[Any]) -> list[Any]:
    """The tensors that a line of code adds to the existing ones."""
    a, b = found[-1 - op.a % len(found)], found[-1 - op.b % len(found)]
    with MODES[op.mode]():
        made = CODE[op.code](lab, a, b, op.k)
    if op.code in PLACES:
        return []
    return [made] if isinstance(made, Tensor) else list(made)


@dataclass
class Line(ABC):
    form: Form

    @abstractmethod
    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        """Adds the line to a graph."""

    @abstractmethod
    def eager(self, at: Any, place: Place) -> Tensor:
        """Evaluates the line at one place."""


@dataclass
class Input(Line):
    name: str
    over: tuple[str, ...]

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        stated = {} if self.form.dtype == net.dtype else {"dtype": self.form.dtype}
        return g.input(self.name, self.form.shape, over=self.over, **stated)

    def eager(self, at: Any, place: Place) -> Tensor:
        return at.inputs[self.name][(at.example, *(place[a] for a in self.over))]


@dataclass
class Slots(Line):
    """A parameter with a row for each slot."""

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        return gn.along(net.weight(0, *self._whole(net)), "slot")

    def eager(self, at: Any, place: Place) -> Tensor:
        return at.net.weight(0, *self._whole(at.net))[place["slot"]]

    def _whole(self, net: Any) -> tuple[int, ...]:
        return (net.slots, *self.form.shape)


@dataclass
class Index(Line):
    axis: str

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        return gn.index(self.axis)

    def eager(self, at: Any, place: Place) -> Tensor:
        return torch.tensor(place[self.axis]) + at.state.get(f"@{self.axis}", 0)


@dataclass
class Length(Line):
    axis: str

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        return gn.length(self.axis)

    def eager(self, at: Any, place: Place) -> Tensor:
        return torch.tensor(at.sizes[self.axis])


def _varied(y: Any, axis: str) -> Any:
    """`y` over an axis of its operands in addition, as later lines expect it."""
    here = gn.index(axis) < 0
    return y ^ here if y.dtype == torch.bool else y + here.to(y.dtype)


@dataclass
class Code(Line):
    """A block of torch code."""

    args: tuple[int, ...]
    ops: tuple[Op, ...]
    out: int
    tame: bool

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        args = [values[i] for i in self.args]
        y = g.value(run(net.drawing(g), self.ops, self.out, self.tame, args))
        for axis in net.layout(self.form.axes - set(y.axes)):
            y = _varied(y, axis)
        return y

    def eager(self, at: Any, place: Place) -> Tensor:
        args = [at(i, place) for i in self.args]
        return run(at.net, self.ops, self.out, self.tame, args)


def fitted(lab: Any, v: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """`v` mapped to another shape and dtype."""
    row, n = v.reshape(-1).to(lab.dtype), torch.Size(shape).numel()
    if dtype == torch.bool:
        return (row.sum() > 0.1234).expand(shape)
    if dtype == torch.int64:
        return torch.floor(row.sum() * 2.31 + 0.17).long().expand(shape) % 7
    return torch.tanh(F.linear(row, lab.weight(0, n, row.shape[0]))).reshape(shape)


@dataclass
class Fit(Line):
    """The next value of a state if no value has its shape: another value and the state."""

    value: int
    state: int

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        return self._of(net, values[self.value], values[self.state])

    def eager(self, at: Any, place: Place) -> Tensor:
        return self._of(at.net, at(self.value, place), at(self.state, place))

    def _of(self, lab: Any, v: Any, state: Any) -> Any:
        made = fitted(lab, v, self.form.shape, self.form.dtype)
        if self.form.dtype == torch.bool:
            return made ^ state
        return made + (state % 3 if self.form.dtype == torch.int64 else 0.5 * state)


@dataclass
class Start(Line):
    """A value as the initial value of a state with fewer axes."""

    value: int
    over: tuple[str, ...]

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        v = values[self.value].to(net.dtype)
        for axis in self.over:
            v = gn.mean(v, over=axis)
        return fitted(net.drawing(g), v, self.form.shape, self.form.dtype)

    def eager(self, at: Any, place: Place) -> Tensor:
        v = self._mean(at, place, self.over)
        return fitted(at.net, v, self.form.shape, self.form.dtype)

    def _mean(self, at: Any, place: Place, over: tuple[str, ...]) -> Tensor:
        if not over:
            return at(self.value, place).to(at.net.dtype)
        *rest, axis = over
        n = at.sizes[axis]
        rows = [self._mean(at, {**place, axis: i}, tuple(rest)) for i in range(n)]
        like = at.net.form(self.value).shape
        return sum(rows) / n if rows else torch.zeros(like, dtype=at.net.dtype)


@dataclass
class Along(Line):
    """A function over a named axis."""

    code: str
    value: int
    axis: str
    k: int

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        return OVER[self.code].graph(values[self.value], self.axis, self.k)

    def eager(self, at: Any, place: Place) -> Tensor:
        n = at.sizes[self.axis]
        if not n:
            return torch.full(self.form.shape, OVER[self.code].none).to(self.form.dtype)
        rows = torch.stack([at(self.value, {**place, self.axis: i}) for i in range(n)])
        return OVER[self.code].eager(rows, place.get(self.axis, 0), self.k)


@dataclass
class State(Line):
    """A state: the value of `close` `delay` positions before, with initial values by slot.

    An initial value is a number, the key of a parameter, a tensor, or the number of a line.
    """

    name: str
    over: str
    delay: int
    inits: tuple[tuple[str, Any], ...]
    close: int = -1
    key: str = ""
    along: tuple[str, ...] = field(default=())

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        self.key = self.name
        dtype = None if self.form.dtype == net.dtype else self.form.dtype
        init = self.initial(net, values)
        return g.state(
            self.name, self.form.shape, self.over, self.along, init, self.delay, dtype=dtype
        )

    def initial(self, net: Any, values: list[Any]) -> Any:
        made = [_initial(kind, x, net, values.__getitem__) for kind, x in self.inits]
        return made[0] if len(made) == 1 else made

    def eager(self, at: Any, place: Place) -> Tensor:
        n, here = at.sizes[self.over], place[self.over]
        here = here if self.delay > 0 else n - 1 - here
        return self.read(at, place, here, n)

    def read(self, at: Any, place: Place, here: int, n: int) -> Tensor:
        """The value read at position `here` in the order of the loop; `n` is after the last."""
        back = here - abs(self.delay)
        if back < 0:
            return self.slot(at, place, here)
        there = back if self.delay > 0 else n - 1 - back
        return at(self.close, {**place, self.over: there}).expand(self.form.shape)

    def slot(self, at: Any, place: Place, k: int) -> Tensor:
        """The initial value that is read at position `k`."""
        if self.key in at.state:
            given = at.state[self.key][(at.example, *(place[a] for a in at.net.layout(self.rest)))]
            return given[k] if abs(self.delay) > 1 else given
        kind, x = self.inits[k if len(self.inits) > 1 else 0]
        made = _initial(kind, x, at.net, lambda i: at(i, place))
        return torch.as_tensor(made, dtype=self.form.dtype).expand(self.form.shape)

    @property
    def rest(self) -> frozenset[str]:
        """Its axes other than that of the loop."""
        return self.form.axes - {self.over}


def _initial(kind: str, x: Any, net: Any, line: Any) -> Any:
    if kind == "line":
        return line(x)
    return net.weight(*x) if kind == "parameter" else x


@dataclass
class Lag(State):
    """A delay of an existing value."""

    def draw(self, net: Any, g: gn.Graph, values: list[Any]) -> Any:
        v = gn.delay(values[self.close], self.delay, self.over, self.initial(net, values))
        self.key = v.node.attrs["key"]
        return v
