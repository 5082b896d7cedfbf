"""What torch holds in context while a graph is drawn: grad mode, autocast, modes of modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Context:
    """The context of one graph's drawing, compared with that in which the graph was made."""

    def __init__(self, bare: bool):
        self._bare = bare
        self._graded, self._detaching = torch.is_grad_enabled(), True
        self._autocast = _autocast()
        # the module whose training mode turns off the dropout that is being drawn
        self.switch: nn.Module | None = None

    @property
    def detached(self) -> bool:
        """Whether what is drawn now carries no gradient: `torch.no_grad()` within the drawing."""
        return self._graded and self._detaching and not torch.is_grad_enabled()

    @contextmanager
    def undetached(self) -> Iterator[None]:
        """Draw derivatives, which torch computes without recording them, with theirs."""
        before, self._detaching = self._detaching, False
        try:
            yield
        finally:
            self._detaching = before

    @property
    def autocast(self) -> bool:
        """Whether autocast was turned on within the drawing."""
        return _autocast() != self._autocast

    def drops(self, training: bool) -> bool:
        """Whether dropout is to be drawn. A bare graph, drawn once, draws it for each module that
        has a training mode, and leaves it out at calls in evaluation."""
        self.switch = None
        asking = _module_calling() if self._bare else None
        if asking is None or asking.training != training:
            return training
        self.switch = asking
        return True


def _module_calling() -> nn.Module | None:
    """The module whose method is running, if any."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        asking = frame.f_locals.get("self")
        if type(asking) is not nn.Module and isinstance(asking, nn.Module):
            return asking
        frame = frame.f_back
    return None


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda"))
