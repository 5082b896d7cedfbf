"""How the next symbol is chosen from logits: the largest, or at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Chooser:
    """Chooses one symbol an example from (batch, vocabulary).

    `how` is "argmax" or "sample". Samples are drawn of softmax(logits / `temperature`), of the
    `top_k` most probable symbols, or of the fewest whose probabilities reach `top_p` (Holtzman et
    al. 2020, arXiv:1904.09751), by `generator`.
    """

    how: str = "argmax"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    generator: torch.Generator | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        """(batch, vocabulary) -> (batch,)."""
        if self.how == "argmax":
            return logits.argmax(-1)
        weights = torch.softmax(self._kept(logits.double() / self.temperature), -1)
        return torch.multinomial(weights, 1, generator=self.generator)[:, 0]

    def _kept(self, logits: Tensor) -> Tensor:
        """The logits, those of symbols that may not be drawn at -inf."""
        if self.top_k is not None:
            least = logits.topk(min(self.top_k, logits.shape[-1])).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        if self.top_p is not None:
            ordered, places = logits.sort(-1, descending=True)
            before = torch.softmax(ordered, -1).cumsum(-1) - torch.softmax(ordered, -1)
            out = (before >= self.top_p).scatter(-1, places, before >= self.top_p)
            logits = logits.masked_fill(out, float("-inf"))
        return logits
