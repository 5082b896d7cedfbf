"""Options of library modules that take one of a few values."""

from __future__ import annotations

from collections.abc import Collection

from graphnn.errors import UnsupportedError
from graphnn.ir.source_location import user_site


def one_of(module: str, option: str, given: object, allowed: Collection[object]) -> None:
    """Raise UnsupportedError unless an option has an allowed value."""
    if given not in allowed:
        raise UnsupportedError(
            f"{module} has no {option} {given!r}",
            site=user_site(),
            got=f"{option}={given!r}",
            wanted=" or ".join(map(repr, allowed)),
            fix="check the spelling",
        )
