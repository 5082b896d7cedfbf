"""What generation gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Generation:
    """The symbols generated for each example.

    `tokens` (batch, steps) int64, the start not among them; the stop symbol is, and fills what lies
    beyond `lengths` (batch,). `scores` (batch,) are sums of log-probabilities, in nats. Of a beam
    search these are the best; `beams` has all, best first: tokens (batch, beam, steps), lengths and
    scores (batch, beam). `record` has what was asked for at each step, (batch, steps, *shape), in
    `beams` (batch, beam, steps, *shape).
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor
    beams: Generation | None = None
    record: dict[str, Tensor] = field(default_factory=dict)
