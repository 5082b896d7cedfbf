"""`generate`, for a class that has a graph and steps along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphnn.frontend.feedback import Feedback
from graphnn.runtime.generation import Chooser, Generation, generate


class Generating(nn.Module):
    """The loop closed that a graph leaves open for training: see `g.feedback`."""

    _traced: Any

    @property
    def feedback(self) -> tuple[Feedback, ...]:
        """What is fed back when the model generates: see `g.feedback`."""
        return self._traced().feedback

    def generate(
        self,
        *,
        start: int | Tensor,
        stop: int | None = None,
        max_steps: int = 100,
        beam: int | None = None,
        length_penalty: float = 0.0,
        choose: str | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
        lengths: Mapping[str, Any] | None = None,
        record: Sequence[str] = (),
        progress: bool = False,
        **inputs: Tensor,
    ) -> Generation:
        """Symbols, each the next input of the one before: the loop closed that `g.feedback` names.

        `start` is the first symbol, or (batch,) or (batch, n) of them; `stop` ends an example, at
        the latest `max_steps` do. One by one they are the most probable or drawn at random
        (`choose`, by default what `g.feedback` says; `temperature`, `top_k`, `top_p`, `generator`:
        see `Chooser`); with `beam` they are sought by a beam search of that width, scores compared
        with `length_penalty`. `inputs` and `lengths` are those of a call but for the input that is
        fed back; an input over its axis is read a position a step. `record` names outputs and
        states to keep of every step, in the result's `record`. Raises GenerateError, StepError.
        """
        how = choose or next((f.choose for f in self.feedback), "argmax")
        return generate(
            self,
            inputs,
            start=start,
            stop=stop,
            max_steps=max_steps,
            beam=beam,
            length_penalty=length_penalty,
            choose=Chooser(how, temperature, top_k, top_p, generator),
            lengths=lengths,
            record=record,
            progress=progress,
        )
