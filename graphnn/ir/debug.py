"""GRAPHNN_DEBUG: what graphnn does, printed to stderr while it does it.

    GRAPHNN_DEBUG=plan,ir,code,kernels python train.py

`plan` prints the decisions of each plan, `ir` the graph after each pass that changed it, `code` the
generated torch code, `kernels` the generated Triton sources.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable

from graphnn.errors import GraphnnError, closest
from graphnn.kernels import cache

WORDS = ("plan", "ir", "code", "kernels")


def wanted(word: str) -> bool:
    """Whether GRAPHNN_DEBUG names a word. Raises GraphnnError if it names one that is none."""
    return word in _words(os.environ.get("GRAPHNN_DEBUG", ""))


def show(word: str, title: str, text: Callable[[], str]) -> None:
    """Print `text()` under a title to stderr, if the word is wanted and there is any text."""
    if wanted(word) and (shown := text()):
        print(f"# graphnn {word}: {title}\n{shown.rstrip()}\n", file=sys.stderr)


@functools.lru_cache(maxsize=8)
def _words(value: str) -> frozenset[str]:
    words = [w.strip() for w in value.split(",") if w.strip()]
    for word in words:
        if word not in WORDS:
            near = closest(word, WORDS)
            raise GraphnnError(
                f"GRAPHNN_DEBUG has no word '{word}'",
                got=f"GRAPHNN_DEBUG={value}",
                wanted=f"words among {', '.join(WORDS)}, with commas between them",
                fix=f"'{near}', if that is meant" if near else None,
            )
    return frozenset(words)


cache.watchers.append(lambda name, source: show("kernels", name, lambda: source))
