"""A short text of a recipe, from which it can be built again."""

from __future__ import annotations

import dataclasses
from typing import Any


def short_repr(thing: Any) -> str:
    """The text of a recipe or a part of it, without fields that have their default values."""
    if isinstance(thing, tuple):
        return "(" + ", ".join(map(short_repr, thing)) + ("," if len(thing) == 1 else "") + ")"
    if not dataclasses.is_dataclass(thing):
        return repr(thing)
    fields = [
        f"{f.name}={short_repr(getattr(thing, f.name))}"
        for f in dataclasses.fields(thing)
        if getattr(thing, f.name) != f.default
    ]
    return f"{type(thing).__name__}({', '.join(fields)})"
