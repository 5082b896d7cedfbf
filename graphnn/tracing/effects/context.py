"""Torch's global state during a trace: grad mode, autocast, and training modes of modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Context:
    """Torch's global state during one trace, compared with that when the graph was created."""

    def __init__(self, bare: bool):
        self._bare = bare
        self._graded, self._detaching = torch.is_grad_enabled(), True
        self._autocast = _autocast()
        # the module whose training mode switches the dropout that is being traced
        self.switch: nn.Module | None = None

    @property
    def detached(self) -> bool:
        """Whether traced operations carry no gradient: `torch.no_grad()` within the trace."""
        return self._graded and self._detaching and not torch.is_grad_enabled()

    @contextmanager
    def keeping_gradients(self) -> Iterator[None]:
        """Within this context, traced operations carry gradients even under `torch.no_grad()`.

        Derivatives are traced in it: torch computes them without recording.
        """
        before, self._detaching = self._detaching, False
        try:
            yield
        finally:
            self._detaching = before

    @property
    def autocast(self) -> bool:
        """Whether autocast was turned on within the trace."""
        return _autocast() != self._autocast

    def drops(self, training: bool) -> bool:
        """Whether dropout becomes part of the graph.

        A bare `Graph` is traced once: it has the dropout of each module with a training mode, and
        calls in evaluation mode leave that out.
        """
        self.switch = None
        module = _calling_module() if self._bare else None
        if module is None or module.training != training:
            return training
        self.switch = module
        return True


def _calling_module() -> nn.Module | None:
    """The innermost module whose method is running, if any."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        module = frame.f_locals.get("self")
        if type(module) is not nn.Module and isinstance(module, nn.Module):
            return module
        frame = frame.f_back
    return None


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
