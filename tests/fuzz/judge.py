"""The judge: a program in plain torch, one example and one position at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.lines import Place, State
from tests.fuzz.program import Net


class Example:
    """One example of a call; values are computed when they are needed, and cached."""

    def __init__(
        self,
        net: Net,
        example: int,
        inputs: dict[str, Tensor],
        sizes: dict[str, int],
        state: dict[str, Tensor],
    ):
        self.net, self.example, self.inputs = net, example, inputs
        self.sizes, self.state = sizes, state
        self.found: dict[Any, Tensor] = {}

    def __call__(self, i: int, place: Place) -> Tensor:
        axes = self.net.layout(self.net.form(i).axes)
        here = {a: place[a] for a in axes}
        key = (i, *here.values())
        if key not in self.found:
            self.found[key] = self.net.lines[i].eager(self, here)
        return self.found[key]


def places(axes: list[str], sizes: dict[str, int]) -> Iterator[Place]:
    if not axes:
        yield {}
        return
    for p in range(sizes[axes[0]]):
        for rest in places(axes[1:], sizes):
            yield {axes[0]: p, **rest}


class Judge:
    """A call of a program."""

    def __init__(
        self,
        net: Net,
        inputs: dict[str, Tensor],
        sizes: dict[str, int],
        lengths: dict[str, Tensor],
        state: dict[str, Tensor],
    ):
        self.net, self.sizes = net, sizes
        self.batch = next(iter(inputs.values())).shape[0]
        self.examples = [
            Example(net, e, inputs, {**sizes, **{a: int(n[e]) for a, n in lengths.items()}}, state)
            for e in range(self.batch)
        ]

    def whole(self, axes: list[str], shape: tuple[int, ...], dtype: torch.dtype, at: Any) -> Tensor:
        """`at(example, place)` at all positions; zero beyond the length of an example."""
        empty = torch.zeros(shape, dtype=dtype)
        rows = [
            at(x, p) if all(p[a] < x.sizes[a] for a in axes) else empty
            for x in self.examples
            for p in places(axes, self.sizes)
        ]
        wide = (self.batch, *(self.sizes[a] for a in axes), *shape)
        return torch.stack(rows).reshape(wide) if rows else torch.zeros(wide, dtype=dtype)

    def line(self, i: int) -> Tensor:
        form = self.net.form(i)
        return self.whole(
            self.net.layout(form.axes), form.shape, form.dtype, lambda x, place: x(i, place)
        )

    def final(self, state: State) -> Tensor:
        """The value that the position after the last one would read; one per delay slot."""
        axes, count = self.net.layout(state.rest), abs(state.delay)

        def at(x: Example, place: Place) -> Tensor:
            n = x.sizes[state.over]
            slots = [state.read(x, place, n + k, n) for k in range(count)]
            return slots[0] if count == 1 else torch.stack(slots)

        shape = ((count,) if count > 1 else ()) + state.form.shape
        return self.whole(axes, shape, state.form.dtype, at)


def judged(
    net: Net,
    inputs: dict[str, Tensor],
    sizes: dict[str, int],
    lengths: dict[str, Tensor],
    state: dict[str, Tensor],
    finals: list[str],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The outputs of a call and the requested final states, by their names."""
    judge = Judge(net, inputs, sizes, lengths, state)
    outputs = {f"{net.called('y')}{k}": judge.line(i) for k, i in enumerate(net.outputs)}
    states = {s.key: s for s in net.lines if isinstance(s, State)}
    return outputs, {k: judge.final(states[k]) for k in finals if not k.startswith("@")}
