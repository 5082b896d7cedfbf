"""The rows of a batch that are still active at each step of a loop, sorted by length.

Each step computes only the first rows, through views: the cost of a batch is that of its valid
positions, without the padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor


class ActiveRows:
    """The active rows of each step; `lengths` are in descending order.

    Every row is active for one step at least, so that padding has a value to repeat.

    `spans` are ranges of positions with one number of rows: (start, stop, rows). `counts` is the
    number of rows at each step, `count` the number of all valid positions.
    """

    def __init__(self, lengths: Tensor, reverse: bool):
        ends = lengths.clamp(min=1).tolist()
        self.batch, self.reverse = len(ends), reverse
        self.longest = max(ends, default=0)
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
        """A value at each step, in the order of the loop: its active rows, or all rows."""
        found: list[Tensor] = []
        for a, b, n in self._turns:
            part = whole.narrow(time, a, b - a)
            part = part if rows is None or n == self.batch else part.narrow(rows, 0, n)
            found += part.unbind(time)[::-1] if self.reverse else part.unbind(time)
        return found

    def repeat(self, x: Tensor, rows: int) -> list[Tensor]:
        """The active rows at each step of a loop-invariant value."""
        return [y for a, b, n in self._turns for y in [x.narrow(rows, 0, n)] * (b - a)]

    def narrow(self, steps: Sequence[Tensor], rows: int) -> list[Tensor]:
        """The active rows of each step's tensor."""
        pairs = zip(steps, self.counts)
        return [x if n == self.batch else x.narrow(rows, 0, n) for x, n in pairs]

    def zero_padding(self, whole: Tensor, time: int, rows: int | None) -> None:
        """Set all positions beyond the examples' ends to zero."""
        whole.narrow(time, self.longest, whole.shape[time] - self.longest).zero_()
        for a, b, n in self.spans:
            if rows is not None and n < self.batch:
                whole.narrow(time, a, b - a).narrow(rows, n, self.batch - n).zero_()

    def start_rows(self, whole: Tensor, time: int, rows: int, first: Tensor) -> None:
        """Before a reversed loop: write initial states where rows that start later read them."""
        for a, b, n in self.spans:
            if n < self.batch:
                mine = first.narrow(rows - (time < rows), n, self.batch - n).unsqueeze(time)
                whole.narrow(time, a, b - a).narrow(rows, n, self.batch - n).copy_(mine)

    def repeat_last(self, whole: Tensor, time: int, rows: int) -> None:
        """Fill the positions beyond each example's end with its last valid one."""
        left = [n for _, _, n in self.spans[1:]] + [0]
        for (_, end, n), rest in zip(self.spans, left):
            mine = whole.narrow(rows, rest, n - rest)
            size = whole.shape[time] - end
            mine.narrow(time, end, size).copy_(mine.narrow(time, end - 1, 1))
