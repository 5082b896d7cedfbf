"""For each pass, a small network whose generated code the pass changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn
from graphnn.planner.pipeline import PASSES, Pass, Stage
from tests.attention import networks
from tests.planner.test_rematerialize import Gate

WIDTH, WIDE = 4, 128
Inputs = dict[str, Tensor]


class Net(nn.Module):
    """A loop `z(t) = step(before(x(t)), z(t-1))` with output `after(z(t))`."""

    def __init__(self, step: Callable[..., Any], width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.joined, self.step, self.width = nn.Linear(2 * width, width), step, width
        self.before = options.pop("before", lambda v: v)
        self.after = options.pop("after", lambda v: v)
        self.state = options

    def graph(self, g: gn.Graph) -> None:
        x = self.before(g.input("x", (self.width,), over="time"))
        z = g.state("z", (self.width,), **self.state)
        z.next = self.step(self, x, z)
        g.output("y", self.after(z.next))


class Layers(nn.Module):
    """Recurrent layers of the library, for example bidirectional or stacked."""

    def __init__(self, width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        kind = options.pop("kind", gn.nn.RNN)
        self.width, self.layers = width, kind(width, width, **options)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.layers(g.input("x", (self.width,), over="time")))


class LSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = gn.nn.LSTM(WIDTH, WIDTH)

    def graph(self, g: gn.Graph) -> None:
        g.output("y", self.lstm(g.input("x", (WIDTH,), over="time")))


class Dropped(networks.Net):
    def mixed(self, q: gn.Value, k: gn.Value) -> gn.Value:
        weights = gn.softmax(torch.tanh(self.query(q) + self.key(k)).sum(-1), over="source")
        weights = nn.functional.dropout(weights, 0.5, self.training)
        return gn.sum(weights * self.value(k), over="source")


def elman(net: Net, x: Any, z: Any) -> Any:
    return torch.tanh(x + net.maps[0](z))


def gated(net: Net, x: Any, z: Any) -> Any:
    gate = torch.sigmoid(net.maps[1](z))
    return gate * z + (1 - gate) * elman(net, x, z)


def transposed(net: Net, x: Any, z: Any) -> Any:
    square = net.maps[0](z).unflatten(0, (2, 2))
    return torch.tanh(square.transpose(0, 1).flatten()) + x


def pair_inputs() -> Inputs:
    return {"q": torch.randn(2, 3, networks.WIDTH), "k": torch.randn(2, 4, networks.WIDTH)}


def story_inputs() -> Inputs:
    width = networks.WIDTH
    return {"q": torch.randn(2, width), **{n: torch.randn(2, 4, width) for n in "mc"}}


@dataclass(frozen=True)
class Example:
    """A network, its inputs and its compile options.

    `skip` lists further passes to skip because they have the same effect.
    """

    make: Callable[[], nn.Module]
    given: Callable[[], Inputs] = lambda: {"x": torch.randn(2, 5, WIDTH)}
    backend: str = "torch"
    skip: tuple[str, ...] = ()
    lengths: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float64
    recompute: bool | None = None

    def compiled(self, *off: str) -> gn.Compiled:
        """Returns the compiled model without the passes in `off`."""
        torch.manual_seed(0)
        net = self.make().to(self.dtype)
        skip = (*self.skip, *off)
        return gn.compile(net, backend=self.backend, skip=skip, recompute=self.recompute)

    def results(self, model: gn.Compiled) -> list[Tensor]:
        """Returns the output and the gradients of one call."""
        torch.manual_seed(1)
        given = {k: v.to(self.dtype).requires_grad_() for k, v in self.given().items()}
        y = model(**given, **({"lengths": self.lengths} if self.lengths else {}))
        moving = [*given.values(), *model.parameters()]
        found = torch.autograd.grad(y.square().sum(), moving, allow_unused=True)
        return [y, *(g for g in found if g is not None)]


def wide_inputs() -> Inputs:
    return {"x": torch.randn(2, 5, WIDE)}


def generated_text(model: gn.Compiled) -> str:
    """Returns all code generated for a model so far and the reason for each loop's strategy."""
    programs = model.programs
    reasons = [c.reason for p in programs for loop in p.loops for c in loop.choices()]
    return "\n".join([*(p.sources() for p in programs), *reasons])


KERNEL = {"backend": "interpret"}
SWITCHES: dict[str, Example] = {
    # the skipped passes simplify their own results
    "simplify": Example(
        lambda: Net(elman, after=lambda v: torch.neg(-v)), skip=("merge", "contract")
    ),
    "split": Example(lambda: Net(lambda n, x, z: torch.tanh(n.joined(torch.cat([x, z]))))),
    "gather": Example(lambda: Net(lambda n, x, z: elman(n, x, z) * x + elman(n, x, z) * x.sin())),
    "hoist": Example(lambda: Net(lambda n, x, z: torch.tanh(n.maps[0](z) + x))),
    "merge": Example(
        lambda: Net(lambda n, x, z: torch.tanh(n.maps[0](z)) * n.maps[1](z).sigmoid())
    ),
    "contract": Example(lambda: Net(gated)),
    "hops": Example(networks.Story, story_inputs, **KERNEL),
    "attend": Example(networks.Additive, pair_inputs),
    "match": Example(LSTM, dtype=torch.float32),
    "scan": Example(lambda: Net(lambda n, x, z: z + torch.sigmoid(x) * (x - z))),
    "sink": Example(lambda: Net(elman, WIDE, after=torch.sin), wide_inputs),
    "beside": Example(lambda: Layers(bidirectional=True), **KERNEL),
    # sharded over two blocks; the cost model predicts one barrier per step for both layers to win
    "stacked": Example(
        lambda: Layers(20, num_layers=2, kind=gn.nn.LSTM),
        lambda: {"x": torch.randn(2, 3, 20)},
        skip=("resident", "fit"),
        **KERNEL,
    ),
    "resident": Example(lambda: Net(elman), **KERNEL),
    "cooperative": Example(lambda: Net(elman), skip=("resident", "fit"), **KERNEL),
    "fit": Example(lambda: Net(elman), **KERNEL),
}


RAGGED = {"lengths": {"time": torch.tensor([5, 2])}}
# passes that cannot be skipped, by stage and name: a network whose code the pass changes,
# and whether the results stay equal without the pass
FIXED: dict[tuple[Stage, str], tuple[Example, bool]] = {
    (Stage.CALL, "lengths"): (Example(lambda: Net(elman), **RAGGED), False),
    (Stage.CHOSEN, "memory_order"): (Example(lambda: Net(elman)), True),
    (Stage.BACKWARD, "outside_views"): (
        # outside the loop, the gradient of the transposed value is read both ways round
        Example(lambda: Net(transposed), skip=("contract",), **KERNEL),
        True,
    ),
    (Stage.FUNCTION, "add_matmul"): (Example(lambda: Net(elman)), True),
    (Stage.PROGRAM, "add_matmul"): (
        Example(
            lambda: Net(elman, before=lambda v: v @ torch.ones(WIDTH, WIDTH, dtype=v.dtype) + v)
        ),
        True,
    ),
    (Stage.LOOP, "sink"): (Example(lambda: Net(elman, WIDE, before=torch.sin), wide_inputs), True),
    (Stage.LOOP, "active_rows"): (Example(lambda: Net(elman), **RAGGED), True),
    (Stage.PROGRAM, "rng"): (
        Example(
            lambda: Net(lambda n, x, z: nn.functional.dropout(elman(n, x, z), 0.5, n.training)),
            recompute=True,
            **KERNEL,
        ),
        False,
    ),
    (Stage.PROGRAM, "attention_rng"): (Example(Dropped, pair_inputs, recompute=True), False),
    (Stage.DERIVED, "rematerialize"): (
        Example(Gate, lambda: {"x": torch.randn(2, 5, 8)}, **KERNEL),
        True,
    ),
}


def without(stage: Stage, name: str) -> tuple[Pass, ...]:
    """Returns the passes of the pipeline, with one of them disabled."""
    return tuple(
        replace(p, run=lambda ir, context: ir) if (p.stage, p.name) == (stage, name) else p
        for p in PASSES
    )
