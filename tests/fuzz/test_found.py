"""Errors that random networks found, each as a small program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn as gn
from tests.fuzz.check import check
from tests.fuzz.recipe import Block, Memory, Op, Over, Recipe, Section
from tests.tracing.eager import BACKENDS, Cell, agree

# --- in-place writes under no_grad: new values, the old history


def multiplied_unrecorded(self: Any, x: Any, h: Any) -> Any:
    y = x * 2
    with torch.no_grad():
        y.mul_(3)
    z = torch.tanh(y + h)
    return z, z


def a_view_unrecorded(self: Any, x: Any, h: Any) -> Any:
    y = x * 2
    part = y[1:]
    with torch.no_grad():
        part.add_(h[1:])
        made_here = y[:2]
        made_here[0] = 7
    z = torch.tanh(y + h)
    return z + y, z


def then_recorded(self: Any, x: Any, h: Any) -> Any:
    y = x * 2
    first, tall = y[0], y.view(3, 1)
    with torch.no_grad():
        y += h
    tall.mul_(2)
    z = torch.tanh(y + h)
    return z + first + tall[1], z


def filled_unrecorded(self: Any, x: Any, h: Any) -> Any:
    y = torch.tanh(x + h) * 2
    with torch.no_grad():
        y.zero_()
    z = torch.tanh(y + h + x)
    return z + y, z


def a_constant_unrecorded(self: Any, x: Any, h: Any) -> Any:
    y = torch.zeros(3, dtype=x.dtype)
    with torch.no_grad():
        y.add_(x)
    z = torch.tanh(y * x + h)
    return z + y, z


# --- functions that return their operand


def given_back_unrecorded(self: Any, x: Any, h: Any) -> Any:
    with torch.no_grad():
        y, w = x.contiguous(), x.to(x.dtype)
        u, v = torch.flatten(x), F.dropout(x, 0.5, False)
    z = torch.tanh(y * w + h * u + v)
    return z, z


def given_back_and_written(self: Any, x: Any, h: Any) -> Any:
    y = x * 2
    same, typed = y.to(y.dtype), y.type_as(h)
    same.add_(1)
    typed[0] = 3
    z = torch.tanh(y + h)
    return z, z


# --- constants made in inference mode


def inference_constants(self: Any, x: Any, h: Any) -> Any:
    with torch.inference_mode():
        c = torch.arange(3)
        y = x.detach() * c
        c.add_(1)
        w = x.detach() + c
        d = torch.zeros(3, dtype=x.dtype)
        d.add_(1).mul_(3)
        w = w * d
        d[0] = 5
        y = y * d
    z = torch.tanh(x + h)
    return z, z


# --- writes at the edges of shapes


def a_masked_number(self: Any, x: Any, h: Any) -> Any:
    y = x.sum()
    y[x[0] > 0] = 2.0
    z = torch.tanh(x + h + y)
    return z, z


def leading_ones(self: Any, x: Any, h: Any) -> Any:
    y = x * 1
    y[1] = h[:1]
    y[:2] = (x[1:] * 2)[None]
    z = torch.tanh(y + h)
    return z, z


def nothing_written(self: Any, x: Any, h: Any) -> Any:
    y = x * 1
    y[3:].mul_(2)
    y[1:1] = 5.0
    empty = x[:0] * 2
    empty[:] = 1
    z = torch.tanh(torch.cat([y, empty]) + h)
    return z, z


# --- a custom function whose result has fewer axes than its inputs


class OfWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        return w * 2

    @staticmethod
    def backward(ctx: Any, flow: Any) -> Any:
        x, w = ctx.saved_tensors
        return flow * w, flow * x


def of_weight(self: Any, x: Any, h: Any) -> Any:
    y = OfWeight.apply(torch.tanh(x + h), self.a.weight[0])
    z = torch.tanh(y + x + h)
    return z, z


RUNS = [
    multiplied_unrecorded,
    a_view_unrecorded,
    then_recorded,
    filled_unrecorded,
    a_constant_unrecorded,
    given_back_unrecorded,
    given_back_and_written,
    inference_constants,
    a_masked_number,
    leading_ones,
    nothing_written,
    of_weight,
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("run", RUNS)
def test_as_torch_has_it(run: Any, backend: str) -> None:
    torch.manual_seed(0)
    agree(Cell(run, a=nn.Linear(3, 3)), backend)


# --- numbers as values

NUMBERS: dict[str, Callable[[Any], Any]] = {
    "reshape": lambda c: c.reshape(1),
    "unsqueeze": lambda c: c[None],
    "expand": lambda c: c.expand(3),
    "stack": lambda c: torch.stack([c, c * 2, c]),
    "cat": lambda c: torch.cat([c.reshape(1)] * 3),
    "softmax": lambda c: c.expand(3).softmax(0),
    "sum": lambda c: c.sum(),
    "amax": lambda c: c.amax(),
    "cumsum": lambda c: c.reshape(1).cumsum(0),
    "slice": lambda c: c.expand(3)[1:2],
    "transposed": lambda c: c.expand(3, 3).t()[0],
    "flip": lambda c: c.expand(3).flip(0),
    "tanh": lambda c: torch.tanh(c).reshape(1),
    "atan": torch.atan,
    "cast": lambda c: c.to(torch.int64).to(c.dtype),
    "compared": lambda c: (c > 1).to(c.dtype),
    "where": lambda c: torch.where(c > 1, c, c * 2),
    "matmul": lambda c: c.expand(3) @ torch.ones(3, 3, dtype=torch.float64),
}


class Scaled(nn.Module):
    def __init__(self, made: Callable[[Any], Any]):
        super().__init__()
        self.made, self.weight = made, nn.Parameter(torch.ones(3))

    def graph(self, g: gn.Graph) -> None:
        x, h = g.input("x", (3,), over="time"), g.state("h", (3,))
        h.next = torch.tanh(x * self.weight * self.made(g.value(1.5)) + h)
        g.output("h", h.next)
        g.output("made", self.made(g.value(1.5)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_a_tensor_to_what_takes_tensors(name: str, backend: str) -> None:
    made = NUMBERS[name](torch.tensor(1.5, dtype=torch.float64))
    x, h, rows = torch.randn(2, 4, 3, dtype=torch.float64), torch.zeros(2, 3), []
    for t in range(4):
        h = torch.tanh(x[:, t] * made + h)
        rows.append(h)
    found = gn.compile(Scaled(NUMBERS[name]).double(), backend=backend)(x=x)
    torch.testing.assert_close(found["h"], torch.stack(rows, 1))
    torch.testing.assert_close(found["made"], made.expand(2, *made.shape))


# --- integers and booleans


class Whole(nn.Module):
    def graph(self, g: gn.Graph) -> None:
        w = g.input("w", over="time", dtype=torch.int64)
        b = g.input("b", over="time", dtype=torch.bool)
        for name, v in {"w": w, "b": b}.items():
            g.output(f"max {name}", gn.max(v, "time"))
            g.output(f"argmax {name}", gn.argmax(v, "time"))
        g.output("top", gn.top(w, 1, "time"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_largest_of_whole_numbers_keeps_its_dtype_and_digits(backend: str) -> None:
    large = 2**60
    w = torch.tensor([[large, large + 1, large + 2], [3, -2, 9]])
    b = torch.tensor([[False, True, True], [True, True, True]])
    lengths = {"time": torch.tensor([2, 0])}
    found = gn.compile(Whole(), backend=backend)(w=w, b=b, lengths=lengths)
    assert found["max w"].tolist() == [large + 1, 0] and found["max w"].dtype == torch.int64
    assert found["max b"].tolist() == [True, False] and found["max b"].dtype == torch.bool
    assert found["argmax w"].tolist() == [1, 0] and found["argmax b"].tolist() == [1, 0]
    assert found["top"].tolist() == [[False, True, False], [False, False, False]]


class Truths(nn.Module):
    def step(self, b: Any, z: Any) -> Any:
        return (z + z) * b + (b * True) * z + torch.maximum(b, z) * torch.minimum(b, z)

    def graph(self, g: gn.Graph) -> None:
        b = g.input("b", (2,), over="time", dtype=torch.bool)
        z = g.state("z", (2,), dtype=torch.bool, init=True)
        z.next = self.step(b, z)
        g.output("z", z.next)
        g.output("count", z + 1 + b * 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_truth_values_add_and_multiply(backend: str) -> None:
    torch.manual_seed(0)
    b = torch.rand(2, 6, 2) > 0.4
    z, zs, counts = torch.ones(2, 2, dtype=torch.bool), [], []
    for t in range(6):
        counts.append(z + 1 + b[:, t] * 2)
        z = Truths().step(b[:, t], z)
        zs.append(z)
    found = gn.compile(Truths(), backend=backend)(b=b)
    assert torch.equal(found["z"], torch.stack(zs, 1))
    assert torch.equal(found["count"], torch.stack(counts, 1))


# --- kernels


class Followed(nn.Module):
    """A state whose next value is a view of another state."""

    def __init__(self, view: Callable[[Any], Any]):
        super().__init__()
        self.view = view
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2]))
        self.start = nn.Parameter(torch.tensor(0.7))

    def graph(self, g: gn.Graph) -> None:
        x, a = g.input("x", over="time"), g.state("a", init=self.start)
        b = g.state("b", (2,), init=0.3)
        a.next = torch.tanh(self.weight @ b + x) + 0.5 * a
        b.next = self.view(a)
        g.output("a", a.next)


VIEWS: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda a: a,
    "expanded": lambda a: a.expand(2),
    "stacked": lambda a: torch.stack([a, a]),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", VIEWS)
def test_states_that_follow_each_other_move_at_once(name: str, backend: str) -> None:
    net, x, ys = Followed(VIEWS[name]).double(), torch.randn(1, 5, dtype=torch.float64), []
    a, b = net.start, torch.full((2,), 0.3, dtype=torch.float64)
    for t in range(5):
        a, b = torch.tanh(net.weight @ b + x[0, t]) + 0.5 * a, a.expand(2)
        ys.append(a)
    y = gn.compile(net, backend=backend)(x=x)
    torch.testing.assert_close(y[0], torch.stack(ys))


class Moved(nn.Module):
    """A loop without computation: its next state is a part of the state."""

    def __init__(self, part: Callable[[Any], Any], width: int, delay: int):
        super().__init__()
        self.part, self.delay = part, delay
        self.start = nn.Parameter(torch.linspace(0.1, 0.9, width))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", over="time")
        y = g.state("y", tuple(self.start.shape), init=self.start, delay=self.delay)
        y.next = self.part(y)
        g.output("z", torch.tanh(y + x).sum())


PARTS: dict[str, Callable[[Any], Any]] = {
    "one for all": lambda y: y[2],
    "itself": lambda y: y,
    "turned": lambda y: y.reshape(2, 2).t().reshape(4),
    "flipped": lambda y: y.flip(0),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("name", PARTS)
def test_a_loop_that_only_moves_numbers_about(name: str, delay: int, backend: str) -> None:
    net, x, zs = Moved(PARTS[name], 4, delay).double(), torch.randn(1, 5).double(), []
    line = [net.start] * delay
    for t in range(5):
        zs.append(torch.tanh(line[t] + x[0, t]).sum())
        line.append(PARTS[name](line[t]).expand(4))
    want = torch.stack(zs)
    z = gn.compile(net, backend=backend)(x=x)[0]
    torch.testing.assert_close(z, want)
    (got,) = torch.autograd.grad(z.sum(), net.start)
    torch.testing.assert_close(got, torch.autograd.grad(want.sum(), net.start)[0])


# --- recipes

FOUND: dict[str, Recipe] = {
    "products of a value without axes, by weights that come later": Recipe(
        (("int", (), ("source",)), ("float", (), ("time",))),
        (
            Section(
                states=(
                    Memory((), delay=3, inits=("computed", "number", "whole"), close=1),
                    Memory(
                        (4,), delay=3, along=("time",), inits=("parameter", "computed"), close=11
                    ),
                ),
                steps=(
                    Block(
                        a=9,
                        ops=(
                            Op("reshape", a=1, k=7),
                            Op("scaled", a=10, b=1, k=3),
                            Op("dropout", a=1, b=1),
                        ),
                        out=1,
                        tame=False,
                    ),
                    Block(
                        a=9,
                        b=1,
                        ops=(Op("row", k=4), Op("power of two", a=2, b=9, k=6, mode="enable_grad")),
                        out=1,
                    ),
                ),
            ),
        ),
        batch=3,
        sizes=(2, 2),
        ragged=("source",),
        given=True,
        noise=True,
    ),
    "a state without elements next to one with": Recipe(
        sections=(
            Section(
                states=(
                    Memory((0,), inits=("whole",), close=6),
                    Memory((1, 3), "int", 2, inits=("parameter", "computed")),
                ),
            ),
        ),
        sizes=(1, 2),
        ragged=("time",),
    ),
    "rows of nothing looked up, by no example": Recipe(
        sections=(
            Section(
                states=(
                    Memory((), "int", 3, inits=("computed",)),
                    Memory((1, 3), along=("slot",), inits=("tensor", "row", "tensor"), close=2),
                ),
                steps=(
                    Block(
                        a=10,
                        b=1,
                        ops=(
                            Op("max", b=7, k=8, mode="set_grad_enabled"),
                            Op("embedding", a=2, b=11, k=7),
                            Op("clone", a=5, b=4, k=5, mode="enable_grad"),
                            Op("cat rows", a=7, b=2, k=6),
                        ),
                        out=2,
                    ),
                    Block(
                        a=10,
                        ops=(
                            Op("softmax", a=6, b=8, k=3),
                            Op("hardtanh", a=4, b=4, k=6),
                            Op("bell", a=10, b=11, k=5, mode="inference_mode"),
                        ),
                        out=3,
                        tame=False,
                    ),
                ),
            ),
        ),
        outputs=(9, 3, 2),
        batch=0,
        sizes=(4, 2),
        ragged=("time",),
        given=True,
    ),
    "a parameter that is a weight and an initial value": Recipe(
        inputs=(("float", (), ("time",)),),
        sections=(
            Section(
                states=(
                    Memory((1, 1), along=("slot",), inits=("parameter",), close=2),
                    Memory(delay=3, along=("slot",), inits=("tensor",)),
                ),
                steps=(Over("reverse", a=10, k=2),),
            ),
        ),
        outputs=(8, 1, 1),
        sizes=(2, 2),
        given=True,
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FOUND)
def test_recipe(name: str, backend: str) -> None:
    assert check(FOUND[name], backend) == "equal"
