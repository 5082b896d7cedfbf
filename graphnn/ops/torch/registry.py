"""The register of torch functions that are made of primitives, by the names torch gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

HANDLERS: dict[str, Callable[..., Any]] = {}
GUARDS: dict[str, Callable[..., None]] = {}
# handlers that judge their calls themselves
OWN_JUDGES: set[str] = set()


def names(*spelled: str) -> Callable[[Any], Any]:
    """Register a handler `(*args, **kwargs)` under these names.

    It gets expressions where the call had values or tensors. NotImplemented leaves a call opaque.
    """

    def register(handler: Any) -> Any:
        HANDLERS.update(dict.fromkeys(spelled, handler))
        return handler

    return register


def guards(*spelled: str) -> Callable[[Any], Any]:
    """Register what raises the error of calls that cannot be honoured, before any is made."""

    def register(guard: Any) -> Any:
        GUARDS.update(dict.fromkeys(spelled, guard))
        return guard

    return register
