"""`python -m tests.fuzz --count N --backend B --seed S`: many random networks, and what they find.

The same seed draws the same networks; several seeds split a run over processes. Of failures that
look alike the first is shrunk and printed, as a recipe to paste into a test.
"""

from __future__ import annotations

import argparse
import collections
import time
import traceback
import warnings
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.check import Unjudged, check
from tests.fuzz.recipe import Recipe, recipes
from tests.fuzz.shrink import shrunk, signature


def outcome(recipe: Recipe, backend: str) -> tuple[str, Exception | None]:
    """How a network went, in few words, and the failure if it is one."""
    try:
        return check(recipe, backend), None
    except Unjudged as error:
        return f"not judged: {str(error).splitlines()[0][:60]}", None
    except Exception as error:
        return f"FOUND {signature(error)}", error


def report(recipe: Recipe, backend: str, found: str, options: Any) -> None:
    """Print a failure in its simplest form."""
    small = shrunk(recipe, lambda r: outcome(r, backend)[0] == found, options.attempts)
    error = outcome(small, backend)[1]
    print(f"--- {found}\n{str(error)[:700]}\n{small!r}", flush=True)
    if options.verbose and error is not None:
        traceback.print_exception(error)


def main() -> None:
    """Run, and say what came of it."""
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=5, help="steps in a section, at most")
    parser.add_argument("--attempts", type=int, default=400, help="of shrinking a failure")
    parser.add_argument("--verbose", action="store_true", help="print tracebacks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: collections.Counter[str] = collections.Counter()
    start = time.time()

    @seed(options.seed)
    @settings(
        max_examples=options.count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes(options.most))
    def run(recipe: Recipe) -> None:
        name, error = outcome(recipe, options.backend)
        found[name] += 1
        if error is not None and found[name] == 1:
            report(recipe, options.backend, name, options)

    run()
    print(f"{options.count} networks, seed {options.seed}, {time.time() - start:.0f} s")
    for name, count in found.most_common():
        print(f"{count:6} {name}")


main()
