"""The result of generation."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Generation:
    """The symbols generated for each example.

    `tokens` (batch, steps) int64 exclude the start. They include the stop symbol, which also fills
    the positions beyond `lengths` (batch,) int64. `scores` (batch,) are sums of log-probabilities
    in nats. A beam search returns its best hypothesis here and all of them in `beams`, best first:
    tokens (batch, beam, steps), lengths and scores (batch, beam). `record` holds the recorded
    values of each step by name, (batch, steps, *shape); in `beams`, (batch, beam, steps, *shape).
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    beams: Generation | None = None
    record: dict[str, Tensor] = field(default_factory=dict)
