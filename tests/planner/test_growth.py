"""Planning time is linear in the size of the graph; it is counted in executed lines."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import graphnn as gn

# a graph twice as large may execute at most this many times the lines of each function
MOST = 2.6
# functions with fewer executed lines are ignored
FEW = 2000


def loop(g: gn.Graph, count: int) -> None:
    """One loop of many operations."""
    x, z = g.input("x", (4,), over="time"), g.state("z", (4,))
    h = F.linear(x + z, g.parameter("w", torch.ones(4, 4)))
    for _ in range(count):
        h = torch.tanh(h) + 0.1 * h
    z.next = h
    g.output("y", h)


def matmuls(g: gn.Graph, count: int) -> None:
    """One loop of many matmuls; the first term of their sum comes from outside the loop."""
    x, z = g.input("x", (4,), over="time"), g.state("z", (4,))
    total = x
    for k in range(count):
        total = total + torch.tanh(F.linear(z, g.parameter(f"w{k}", torch.ones(4, 4))))
    z.next = total + x
    g.output("y", total)


def layers(g: gn.Graph, count: int) -> None:
    """Many loops, one after another."""
    h = g.input("x", (4,), over="time")
    for k in range(count):
        z = g.state(f"z{k}", (4,))
        z.next = torch.tanh(h + torch.sin(z))
        h = z.next * 1.5 + 0.1
    g.output("y", h)


def state_chain(g: gn.Graph, count: int) -> None:
    """One loop of many states, each of which passes its value to another."""
    x = g.input("x", (4,), over="time")
    states = [g.state(f"z{k}", (4,)) for k in range(count)]
    for a, b in pairwise(states):
        a.next = b * 0.9
    states[-1].next = torch.tanh(x + states[0])
    g.output("y", states[0])


def scalars(g: gn.Graph, count: int) -> None:
    """One loop that computes many scalars."""
    x, z = g.input("x", (4,), over="time"), g.state("z", (count,))
    z.next = torch.stack([torch.tanh(z[k] + x[k % 4]) for k in range(count)])
    g.output("y", z.next)


def executed_lines(
    build: Callable[[gn.Graph, int], None], count: int, device: str
) -> Counter[CodeType]:
    """Counts the executed lines of each function up to the first gradient or explanation."""
    g = gn.Graph("growing")
    build(g, count)
    lines = Counter[CodeType]()

    def inside(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines[frame.f_code] += 1
        return inside

    def enter(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        return inside if "graphnn" in name or "/kernels/" in name else None

    x = torch.ones(1, 2, 4, requires_grad=True)
    sys.settrace(enter)
    try:
        model = gn.compile(g)
        if device == "cuda":
            model.explain(device="cuda")
        else:
            model(x=x).sum().backward()
    finally:
        sys.settrace(None)
    return lines


ON_CPU = [(build, "cpu", 24) for build in (loop, matmuls, layers, state_chain, scalars)]
# few enough operations for one kernel: other strategies execute other functions
ON_CUDA = [(loop, "cuda", 24), (state_chain, "cuda", 24)]


@pytest.mark.parametrize(("build", "device", "count"), ON_CPU + ON_CUDA)
def test_no_function_grows_faster_than_the_graph(build, device, count):
    executed_lines(build, 3, device)
    once, twice = (executed_lines(build, n, device) for n in (count, 2 * count))
    grown = {
        f"{code.co_name} ({code.co_filename.rsplit('/', 1)[-1]}:{code.co_firstlineno})": n
        for code, n in twice.items()
        if n > FEW and n > MOST * once[code] and "<graphnn" not in code.co_filename
    }
    assert sum(twice.values()) < MOST * sum(once.values())
    assert grown == {}
