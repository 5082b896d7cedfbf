"""The recurrent modules that kernels are tested with, and what a call of one gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import graphnn as gn
from tests.backends.triton.places import Place
from tests.networks.equality import numbers, results
from tests.nn.common import OverTime, randomised
from tests.nn.test_backends import RECURRENT

INPUT = 5


class Delayed(nn.Module):
    """Two delays of one loop: h of one and of two steps ago, and a gate of three steps ago."""

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.size = hidden_size
        self.enc = nn.Linear(input_size, hidden_size)
        self.one, self.two, self.gate = (nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.start = nn.Parameter(torch.zeros(hidden_size))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (INPUT,), over="time")
        h = g.state("h", (self.size,), init=self.start)
        u = g.state("u", (self.size,), delay=3, init=g.input("u0", (self.size,)))
        gate = torch.sigmoid(self.gate(u))
        before = gn.delay(h, 1, over="time", init=0.25)
        h.next = gate * torch.tanh(self.enc(x) + self.one(h) + self.two(before))
        u.next = h.next - 0.5 * u
        g.output("y", h.next)


@dataclass(frozen=True)
class Sizes:
    """Examples, steps and hidden units."""

    batch: int
    time: int
    hidden: int

    def __str__(self) -> str:
        return f"B{self.batch}-T{self.time}-H{self.hidden}"


# cells that are scans, held to be loops
AS_LOOPS = {f"{name}_as_a_loop": name for name in ("min_gru", "sru")}
CELLS = [*RECURRENT, *AS_LOOPS, "delayed"]


def network(name: str, hidden: int) -> Any:
    """A module with an input x, states that start from inputs, and random weights in float64."""
    if name == "delayed":
        return drawn(Delayed(INPUT, hidden))
    made, options = RECURRENT[AS_LOOPS.get(name, name)]
    return drawn(OverTime(made(INPUT, hidden, **options), INPUT, init=True))


def drawn(net: nn.Module) -> Any:
    """All parameters drawn anew, matrices of 1/sqrt(their inputs), as networks begin.

    Matrices of 0.5 at every width make two layers of 33 units multiply a rounding by thousands in
    nine steps: eager loops too then differ from the definition by 6e-13 of a gradient.
    """
    net = randomised(net)
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() > 1:
                p *= min(1.0, 2 * p.shape[-1] ** -0.5)
    return net


def skipped(name: str, place: Place, strategy: str) -> tuple[str, ...]:
    """The passes that a cell's model skips."""
    return place.skip(strategy) + (("scan",) if name in AS_LOOPS else ())


def inputs(net: Any, sizes: Sizes, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """The sequence and the first states, which all want gradients."""
    widths = net.module.state_sizes if isinstance(net, OverTime) else {"u0": net.size}
    shapes = {"x": (sizes.batch, sizes.time, INPUT)}
    shapes |= {name: (sizes.batch, width) for name, width in widths.items()}
    made = {name: numbers(torch.empty(shape), k) for k, (name, shape) in enumerate(shapes.items())}
    return {k: v.to(device, dtype).requires_grad_() for k, v in made.items()}


def ragged(sizes: Sizes, device: str) -> dict[str, Tensor]:
    """Lengths from all of the steps down to none."""
    count = [sizes.time - k % (sizes.time + 1) for k in range(sizes.batch)]
    return {"time": torch.tensor(count, device=device)}


def run(
    net: Any,
    place: Place,
    skip: tuple[str, ...],
    given: dict[str, Tensor],
    lengths: dict[str, Tensor],
) -> tuple[dict[str, Tensor], gn.Compiled]:
    """All that a call gives, its noise drawn from one seed, and the model."""
    model = gn.compile(net, backend=place.backend, skip=skip)
    torch.manual_seed(3)
    return results(model, given, lengths)[0], model
