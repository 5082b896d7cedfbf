"""Run many random networks: their outcomes, and the simplest recipe of each kind of failure."""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterable

from tests.fuzz.check import Unjudged, check
from tests.fuzz.recipe import Recipe, recipe
from tests.fuzz.shrink import shrunk, signature


def outcome(r: Recipe, backend: str) -> tuple[str, Exception | None]:
    """The outcome of a network in a few words, and the error if it failed."""
    try:
        return check(r, backend), None
    except Unjudged as error:
        return f"not judged: {str(error).splitlines()[0][:60]}", None
    except Exception as error:
        return f"FOUND {signature(error)}", error


def run(
    seeds: Iterable[int],
    backend: str,
    most: int,
    attempts: int,
    say: Callable[[str], None],
    names: bool = False,
) -> collections.Counter[str]:
    """Check the networks of these seeds; `say` gets a report of the first failure of each kind."""
    found: collections.Counter[str] = collections.Counter()
    start = time.time()
    for seed in seeds:
        drawn = recipe(seed, most, names)
        name, error = outcome(drawn, backend)
        found[name] += 1
        if error is not None and found[name] == 1:
            small = shrunk(drawn, lambda r, name=name: outcome(r, backend)[0] == name, attempts)
            error = outcome(small, backend)[1]
            say(f"--- seed {seed}: {name}\n{str(error)[:700]}\n{small!r}")
    say(f"{found.total()} networks in {time.time() - start:.0f} s")
    return found
