"""The two searches: one symbol at a time, and beam search."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from graphnn.runtime.generation.result import Generation
from graphnn.runtime.generation.sampling import Chooser
from graphnn.runtime.streaming.step import State

# logits (rows, vocabulary), states, and the recorded values of the step
Stepped = tuple[Tensor, State, dict[str, Tensor]]
# a step: takes states, a position and the symbols (rows,) before it
Step = Callable[[State, int, Tensor], Stepped]


def one_by_one(
    step: Step,
    state: State,
    last: Tensor,
    positions: Iterable[int],
    stop: int | None,
    choose: Chooser,
) -> Generation:
    """Choose one symbol per step, for every example until its stop symbol."""
    rows = last.shape[0]
    lengths, scores = last.new_zeros(rows), torch.zeros(rows, device=last.device)
    running = torch.ones(rows, dtype=torch.bool, device=last.device)
    tokens, record = [], _Record()
    may_end = stop is not None or not rows
    for position in positions:
        logits, state, values = step(state, position, last)
        record.add(values)
        last = choose(logits)
        gained = _log_probabilities(logits).gather(-1, last[:, None])[:, 0]
        scores = scores + torch.where(running, gained, 0.0)
        lengths = lengths + running
        if stop is not None:
            last = torch.where(running, last, stop)
            running = running & (last != stop)
        tokens.append(last)
        if may_end and not running.any():  # reading it waits for the GPU
            break
    return Generation(_stacked(tokens, rows, lengths), lengths, scores, record=record.steps)


def beam_search(
    step: Step,
    state: State,
    last: Tensor,
    positions: Iterable[int],
    stop: int | None,
    beam: int,
    length_penalty: float,
) -> Generation:
    """Extend each example's `beam` best hypotheses by every symbol; keep the `beam` best of all.

    `last` has `beam` rows per example. Stopped hypotheses stay in the beam. All are ranked by
    score / ((5 + length) / 6)^length_penalty (Wu et al. 2016, arXiv:1609.08144, eq. 14).
    """
    search = _Beams(last.shape[0] // beam, beam, stop, length_penalty, last.device)
    start, may_end = state, stop is not None or not last.shape[0]
    for position in positions:
        logits, state, values = step(state, position, last)
        search.record.add(values)
        parents, last = search.advance(_log_probabilities(logits))
        # states that steps only pass on are equal for all hypotheses of an example
        state = {
            k: v.index_select(0, parents) if v.dim() and v is not start.get(k) else v
            for k, v in state.items()
        }
        if may_end and not search.running.any():
            break
    return search.best()


class _Record:
    """The recorded values of all steps: (rows, steps, *shape) by name."""

    def __init__(self) -> None:
        self.steps: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, x in values.items():
            row = x[:, None]
            self.steps[name] = torch.cat([self.steps[name], row], 1) if name in self.steps else row

    def follow(self, parents: Tensor) -> None:
        """Row i continues the hypothesis of row parents[i]."""
        self.steps = {k: x.index_select(0, parents) for k, x in self.steps.items()}


class _Beams:
    """The hypotheses of a beam search: (batch, beam), best first once sorted."""

    def __init__(
        self, batch: int, beam: int, stop: int | None, penalty: float, device: torch.device
    ):
        self.beam, self.stop, self.penalty = beam, stop, penalty
        self.first = torch.arange(batch, device=device)[:, None] * beam
        # all hypotheses start equal: only the first may continue, or all would stay equal
        self.scores = torch.full((batch, beam), float("-inf"), device=device)
        self.scores[:, 0] = 0
        self.lengths = torch.zeros((batch, beam), dtype=torch.int64, device=device)
        self.running = torch.ones((batch, beam), dtype=torch.bool, device=device)
        self.record = _Record()
        self.tokens = torch.zeros((batch, beam, 0), dtype=torch.int64, device=device)

    def advance(self, gained: Tensor) -> tuple[Tensor, Tensor]:
        """From log-probabilities (rows, vocabulary): the row each comes from, and its symbol."""
        batch, beam = self.scores.shape
        gained = gained.reshape(batch, beam, gained.shape[-1])
        if self.stop is not None:
            rest = torch.full_like(gained, float("-inf"))
            rest[..., self.stop] = 0
            gained = torch.where(self.running[..., None], gained, rest)
        scores = self.scores[..., None] + gained
        lengths = (self.lengths + self.running)[..., None].expand_as(scores)
        ranked = self._ranked(scores, lengths).flatten(1)
        chosen = ranked.topk(beam).indices
        parents, symbols = chosen // gained.shape[-1], chosen % gained.shape[-1]
        self.scores = scores.flatten(1).gather(1, chosen)
        self.lengths = lengths.flatten(1).gather(1, chosen)
        self.running = self.running.gather(1, parents)
        if self.stop is not None:
            self.running = self.running & (symbols != self.stop)
        before = self.tokens.gather(1, parents[..., None].expand_as(self.tokens))
        self.tokens = torch.cat([before, symbols[..., None]], -1)
        rows = (self.first + parents).flatten()
        self.record.follow(rows)
        return rows, symbols.flatten()

    def _ranked(self, scores: Tensor, lengths: Tensor) -> Tensor:
        return scores / ((5 + lengths) / 6) ** self.penalty

    def best(self) -> Generation:
        order = self._ranked(self.scores, self.lengths).argsort(stable=True, dim=1, descending=True)
        tokens = self.tokens.gather(1, order[..., None].expand_as(self.tokens))
        lengths, scores = self.lengths.gather(1, order), self.scores.gather(1, order)
        self.record.follow((self.first + order).flatten())
        record = {k: x.unflatten(0, order.shape) for k, x in self.record.steps.items()}
        found = Generation(tokens, lengths, scores, record=record)
        best = {k: x[:, 0] for k, x in record.items()}
        return Generation(tokens[:, 0], lengths[:, 0], scores[:, 0], found, best)


def _stacked(tokens: list[Tensor], rows: int, like: Tensor) -> Tensor:
    return torch.stack(tokens, 1) if tokens else like.new_zeros((rows, 0))


def _log_probabilities(logits: Tensor) -> Tensor:
    """Log-probabilities, in float32 at least."""
    kind = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits, -1, dtype=kind)
