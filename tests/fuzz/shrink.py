"""Shrinking: a greedy search for smaller recipes with the same kind of failure."""

from __future__ import annotations

import dataclasses
import itertools
import re
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tests.fuzz.recipe import Recipe


def signature(error: Exception) -> str:
    """The kind of a failure: the type of the error, and where in the library it arose."""
    if isinstance(error, AssertionError):
        kinds = sorted(set(re.findall(r"gradient|final|off by|, not|slope", str(error))))
        return f"differs: {' '.join(kinds)}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/graphnn/" in f.filename]
    where = f"{frames[-1].filename.split('/graphnn/')[-1]}:{frames[-1].lineno}" if frames else ""
    words = re.sub(r"\d+|'[^']*'|\(.*?\)|\[.*?\]", "#", str(error).splitlines()[0])[:70]
    return f"{type(error).__name__} {words} {where}"


def smaller(thing: Any) -> Iterator[Any]:
    """Simpler versions of a recipe or a part of it, the simplest first."""
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            now = getattr(thing, field.name)
            if now != field.default and field.default is not dataclasses.MISSING:
                yield dataclasses.replace(thing, **{field.name: field.default})
            for less in smaller(now):
                yield dataclasses.replace(thing, **{field.name: less})
    elif isinstance(thing, tuple):
        for k in range(len(thing)):
            yield thing[:k] + thing[k + 1 :]
        for k, part in enumerate(thing):
            for less in smaller(part):
                yield (*thing[:k], less, *thing[k + 1 :])
    elif isinstance(thing, int) and not isinstance(thing, bool) and thing:
        yield from dict.fromkeys((0, thing // 2, thing - 1 if thing > 0 else thing + 1))


def shrunk(recipe: Recipe, fails: Callable[[Recipe], bool], most: int = 400) -> Recipe:
    """The simplest recipe that still fails, within `most` attempts."""
    place, tried, before = 0, 0, -1
    while tried < most:
        candidate = next(itertools.islice(smaller(recipe), place, None), None)
        if candidate is None:
            if before == tried - place:
                break
            place, before = 0, tried - place
            continue
        tried += 1
        if candidate.inputs and min(candidate.sizes, default=0) > 0 and fails(candidate):
            recipe = candidate
        else:
            place += 1
    return recipe
