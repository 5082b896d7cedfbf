"""The register of torch functions that are made of primitives, by torch's names.

A handler is a small function that builds the formula of a torch function from expressions:

    @names("softsign")
    def _softsign(x: Expr) -> Any:
        return x / (make("abs", x) + 1)

Functions that are exactly one operation need none: rows of the table have `torch_names`. A handler
that raises TypeError, ValueError, LookupError or ArithmeticError leaves the call to torch, so test
that no node of a traced call is opaque.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HANDLERS: dict[str, Callable[..., Any]] = {}
GUARDS: dict[str, Callable[..., None]] = {}
# functions whose handlers check their arguments: torch is not asked first
OWN_JUDGES: set[str] = set()


def names(*spelled: str) -> Callable[[Any], Any]:
    """Register a handler `(*args, **kwargs)` under these names.

    It gets expressions instead of values and tensors. It returns expressions, or NotImplemented to
    leave the call to torch.
    """

    def register(handler: Any) -> Any:
        HANDLERS.update(dict.fromkeys(spelled, handler))
        return handler

    return register


def guards(*spelled: str) -> Callable[[Any], Any]:
    """Register a function that raises an error for unsupported calls, before anything is traced."""

    def register(guard: Any) -> Any:
        GUARDS.update(dict.fromkeys(spelled, guard))
        return guard

    return register
