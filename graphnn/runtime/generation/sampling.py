"""The choice of the next symbol from logits: the most probable, or a random sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Chooser:
    """Chooses one symbol per example from logits (batch, vocabulary).

    `how` is "argmax" or "sample". Samples are drawn from softmax(logits / `temperature`) with
    `generator`. `top_k` restricts them to the k most probable symbols, `top_p` to the smallest set
    whose probabilities reach p (Holtzman et al. 2020, arXiv:1904.09751).
    """

    how: str = "argmax"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """The chosen symbols: (batch, vocabulary) -> (batch,) int64."""
        if self.how == "argmax":
            return logits.argmax(-1)
        weights = torch.softmax(self._restricted(logits.double() / self.temperature), -1)
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]

    def _restricted(self, logits: Tensor) -> Tensor:
        """The logits, with -inf for symbols that `top_k` or `top_p` excludes."""
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        if self.top_p is not None:
            ordered, symbols = logits.sort(-1, descending=True)
            before = torch.softmax(ordered, -1).cumsum(-1) - torch.softmax(ordered, -1)
            out = (before >= self.top_p).scatter(-1, symbols, before >= self.top_p)
            logits = logits.masked_fill(out, float("-inf"))
        return logits
