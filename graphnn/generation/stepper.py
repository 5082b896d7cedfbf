"""A model run one step at a time along one axis, what does not vary over it computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnn.calls import declared

State = dict[str, Tensor]


@dataclass(frozen=True)
class Stepper:
    """`steps` is the part of a model that varies over `axis`; `given` what it reads at every step,
    `along` what it reads of a sequence, a position a step, with the dimension of the positions."""

    steps: Any
    axis: str
    given: dict[str, Tensor]
    along: dict[str, tuple[Tensor, int]]
    lengths: dict[str, Tensor]
    rows: int
    device: torch.device

    def start(self) -> State:
        """The states before the first step."""
        state: State = self.steps.initial_state(self.rows, over=self.axis)
        return state

    def __call__(self, state: State, place: int, **inputs: Tensor) -> tuple[Any, State]:
        """Outputs and states after the step at a place."""
        read = {name: x.select(dim, place) for name, (x, dim) in self.along.items()}
        lengths = self.lengths or None
        outputs: tuple[Any, State] = self.steps.step(
            state, over=self.axis, lengths=lengths, **self.given, **read, **inputs
        )
        return outputs


def stepper(
    model: Any,
    axis: str,
    inputs: Mapping[str, Tensor],
    lengths: Mapping[str, Tensor] | None,
    rows: int,
    each: int = 1,
) -> Stepper:
    """Compute what is held, of `rows` examples, and repeat each example `each` times."""
    before, steps = model.parts(axis)
    made: dict[str, Tensor] = {}
    ragged = {k: torch.as_tensor(v) for k, v in (lengths or {}).items() if k != axis}
    if before is not None:
        asked = {k: inputs[k] for k in declared(before.ir) if k in inputs}
        found = before(**asked, lengths=_of(before, ragged))
        made = found if isinstance(found, dict) else dict.fromkeys(before.ir.outputs, found)
    given, along = {}, {}
    for name, node in declared(steps.ir).items():
        x = made[name] if name in made else inputs.get(name)
        if x is None:
            continue
        x = x.repeat_interleave(each, 0)
        if axis in node.attrs["over"]:
            along[name] = (x, 1 + node.attrs["over"].index(axis))
        else:
            given[name] = x
    spread = {k: v.repeat_interleave(each, 0) for k, v in _of(steps, ragged).items()}
    device = next((p.device for p in steps.parameters()), torch.device("cpu"))
    return Stepper(steps, axis, given, along, spread, rows * each, device)


def _of(part: Any, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The lengths of the axes that a part has."""
    return {k: v for k, v in lengths.items() if k in part.ir.axes}
