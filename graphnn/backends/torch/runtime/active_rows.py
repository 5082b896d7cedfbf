"""The examples that still run at each step of a loop, where they are sorted by length.

A step is then taken of the first few rows alone, through views: a batch costs the positions that
its examples have, not those that it is padded to.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor


class Running:
    """The rows of each step; `lengths` do not grow from row to row.

    Every row takes one step at least, so that there is a value for what lies beyond to repeat.
    """

    def __init__(self, lengths: Tensor, reverse: bool):
        ends = lengths.clamp(min=1).tolist()
        self.batch, self.reverse = len(ends), reverse
        self.longest = max(ends, default=0)
        # stretches of positions with as many rows
        spans, start = [], 0
        for rows in range(len(ends), 0, -1):
            if ends[rows - 1] > start:
                spans.append((start, ends[rows - 1], rows))
                start = ends[rows - 1]
        self.spans = spans
        self._turns = spans[::-1] if reverse else spans
        self.counts = [n for a, b, n in self._turns for _ in range(a, b)]
        self.count = sum(self.counts)

    def steps(self, whole: Tensor, time: int, rows: int | None) -> list[Tensor]:
        """What a value is at each step, in the order of steps: its rows that run, or all."""
        found: list[Tensor] = []
        for a, b, n in self._turns:
            part = whole.narrow(time, a, b - a)
            part = part if rows is None or n == self.batch else part.narrow(rows, 0, n)
            found += part.unbind(time)[::-1] if self.reverse else part.unbind(time)
        return found

    def each(self, x: Tensor, rows: int) -> list[Tensor]:
        """The rows that run of what is the same at each step."""
        return [y for a, b, n in self._turns for y in [x.narrow(rows, 0, n)] * (b - a)]

    def those(self, steps: Sequence[Tensor], rows: int) -> list[Tensor]:
        """Of each step's tensor the rows that run."""
        pairs = zip(steps, self.counts)
        return [x if n == self.batch else x.narrow(rows, 0, n) for x, n in pairs]

    def clear(self, whole: Tensor, time: int, rows: int | None) -> None:
        """Zeros at all positions that no step is taken for."""
        whole.narrow(time, self.longest, whole.shape[time] - self.longest).zero_()
        for a, b, n in self.spans:
            if rows is not None and n < self.batch:
                whole.narrow(time, a, b - a).narrow(rows, n, self.batch - n).zero_()

    def begin(self, whole: Tensor, time: int, rows: int, first: Tensor) -> None:
        """Before a loop from the end: rows that start at a step read what a state starts from."""
        for a, b, n in self.spans:
            if n < self.batch:
                mine = first.narrow(rows - (time < rows), n, self.batch - n).unsqueeze(time)
                whole.narrow(time, a, b - a).narrow(rows, n, self.batch - n).copy_(mine)

    def hold(self, whole: Tensor, time: int, rows: int) -> None:
        """Positions that no step is taken for repeat the last of their row."""
        left = [n for _, _, n in self.spans[1:]] + [0]
        for (_, end, n), rest in zip(self.spans, left):
            mine = whole.narrow(rows, rest, n - rest)
            size = whole.shape[time] - end
            mine.narrow(time, end, size).copy_(mine.narrow(time, end - 1, 1))
