"""A model run one step at a time along one axis, what does not vary over it computed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnn.runtime.call.read import declared, unknown

State = dict[str, Tensor]


@dataclass(frozen=True)
class Stepper:
    """A model at `start` along an axis; `along` is what it reads of sequences, a position a step,
    with the dimension of the positions."""

    model: Any
    axis: str
    start: State
    along: dict[str, tuple[Tensor, int]]

    def __call__(self, state: State, place: int, **inputs: Tensor) -> tuple[Any, State]:
        """Outputs and states after the step at a place."""
        read = {name: x.select(dim, place) for name, (x, dim) in self.along.items()}
        outputs: tuple[Any, State] = self.model.step(state, over=self.axis, **read, **inputs)
        return outputs


def stepper(
    model: Any,
    axis: str,
    inputs: Mapping[str, Tensor],
    lengths: Mapping[str, Any] | None,
    rows: int,
    each: int = 1,
) -> Stepper:
    """Compute what is held, of `rows` examples, and repeat each example `each` times."""
    wanted = declared(model.ir)
    unknown(model.ir, inputs, list(wanted))
    along, still = {}, {}
    for name, x in inputs.items():
        over = wanted[name].attrs["over"]
        if axis in over:
            along[name] = (x.repeat_interleave(each, 0), 1 + over.index(axis))
        else:
            still[name] = x
    ragged = {k: torch.as_tensor(v) for k, v in (lengths or {}).items() if k != axis}
    state = model.initial_state(rows, over=axis, lengths=ragged or None, **still)
    start = {k: v.repeat_interleave(each, 0) if v.dim() else v for k, v in state.items()}
    return Stepper(model, axis, start, along)
