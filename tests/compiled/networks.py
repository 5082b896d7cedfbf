"""Networks of the catalogue alone: delays, two states, positions, every operation of graphs."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import torch
from torch import nn

import graphnn as gn
from tests.networks import graphs

# operations of one network: few, as a fault is then easy to place
TOGETHER = 4


class Delayed(nn.Module):
    """A state of some delay, whose slots all start from one trained value."""

    def __init__(self, delay: int, width: int = 17):
        super().__init__()
        self.map, self.delay = nn.Linear(5 + width, width), delay
        self.start = nn.Parameter(torch.randn(width))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="time")
        h = g.state("h", self.start.shape, over="time", delay=self.delay, init=self.start)
        h.next = torch.tanh(self.map(torch.cat([x, h])))
        g.output("h", h.next)


class TwoStates(nn.Module):
    """Two states that start from one value; each feeds the other, one with a delay of two."""

    def __init__(self, width: int = 17):
        super().__init__()
        self.up, self.down = nn.Linear(5 + width, width), nn.Linear(2 * width, width)
        self.start = nn.Parameter(torch.randn(width))

    def graph(self, g: gn.Graph) -> None:
        x = g.input("x", (5,), over="time")
        size = self.start.shape
        a = g.state("a", size, over="time", init=self.start)
        b = g.state("b", size, over="time", delay=2, init=self.start)
        a.next = torch.tanh(self.up(torch.cat([x, b])))
        b.next = torch.sigmoid(self.down(torch.cat([a.next, b])))
        g.output("y", a.next + b.next)


class Embedded(nn.Module):
    """A module that changes the positions of an input, then causal attention."""

    def __init__(self, module: nn.Module, width: int):
        super().__init__()
        self.module, self.out, self.width = module, nn.Linear(width, 5), width

    def graph(self, g: gn.Graph) -> None:
        x = self.module(g.input("x", (self.width,), over="time"))
        g.output("y", gn.attend(x, x, self.out(x), over="time", causal=True))


def of_operations() -> dict[str, graphs.Recipe]:
    """Return recipes that have each operation of `graphs.py` once, in a loop.

    The delay, the initial value and the direction of the loop's state change from one to the next.
    """
    names = [*graphs.LOCAL, *graphs.OVER_AXIS, "delay"]
    parts = [names[k : k + TOGETHER] for k in range(0, len(names), TOGETHER)]
    kinds: Any = zip(parts, cycle((1, 2, 3, 4)), cycle(graphs.INITS), cycle((False, True)))
    return {", ".join(part): _recipe(part, *rest) for part, *rest in kinds}


def _recipe(names: list[str], delay: int, init: str, ahead: bool) -> graphs.Recipe:
    steps = tuple(graphs.Step(name, k, k + 1, k + 1) for k, name in enumerate(names))
    memories = (graphs.Memory(3, delay, init=init), graphs.Memory(2))
    section = graphs.Section(ahead=ahead, states=memories, steps=steps)
    return graphs.Recipe(inputs=((3, ("time",)),), sections=(section,))
