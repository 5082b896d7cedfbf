"""A network stepped along one axis from a fixed start; its sequences are sliced per position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphnn.runtime.call.read import check_known, declared
from graphnn.runtime.streaming.step import State, Streaming


@dataclass(frozen=True)
class Stepper:
    """A network at its `start` along an axis.

    `sequences` are the inputs over that axis, each with its dimension of positions.
    """

    streaming: Streaming
    axis: str
    start: State
    sequences: dict[str, tuple[Tensor, int]]

    def __call__(self, state: State, position: int, **inputs: Tensor) -> tuple[Any, State]:
        """Outputs and states after the step at a position."""
        here = {name: x.select(dim, position) for name, (x, dim) in self.sequences.items()}
        return self.streaming.step(state, self.axis, None, {**here, **inputs})


def stepper(
    streaming: Streaming,
    axis: str,
    inputs: Mapping[str, Tensor],
    lengths: Mapping[str, Any] | None,
    batch: int,
    copies: int = 1,
) -> Stepper:
    """Compute what does not vary over `axis` for `batch` examples; repeat each `copies` times."""
    ir = streaming.network.ir
    wanted = declared(ir)
    check_known(ir, inputs, list(wanted))
    sequences, constant = {}, {}
    for name, x in inputs.items():
        over = wanted[name].attrs["over"]
        if axis in over:
            sequences[name] = (x.repeat_interleave(copies, 0), 1 + over.index(axis))
        else:
            constant[name] = x
    ragged = {k: torch.as_tensor(v) for k, v in (lengths or {}).items() if k != axis}
    state = streaming.initial_state(batch, axis, ragged or None, constant)
    start = {k: v.repeat_interleave(copies, 0) if v.dim() else v for k, v in state.items()}
    return Stepper(streaming, axis, start, sequences)
