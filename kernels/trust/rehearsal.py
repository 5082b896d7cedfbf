"""A rehearsal: a call on cut inputs, whose launches are chosen as for the full ones.

A launch is chosen by the number of rows. A check of few rows would check another launch.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class _Full(threading.local):
    """The lengths of the axes of the full call, by name; None outside rehearsals.

    While launches are `tried`, they are candidates of a tuner, not those of the call.
    """

    sizes: Mapping[str, int] | None = None
    tried: bool = False


_full = _Full()


@contextmanager
def trying() -> Iterator[None]:
    """Mark the launches of this thread as candidates, most of which will not be taken."""
    before, _full.tried = _full.tried, True
    try:
        yield
    finally:
        _full.tried = before


def tried() -> bool:
    """Return whether launches are candidates."""
    return _full.tried


@contextmanager
def rehearsal_of(sizes: Mapping[str, int]) -> Iterator[None]:
    """Choose launches as for axes of these lengths, in this thread."""
    before, _full.sizes = _full.sizes, sizes
    try:
        yield
    finally:
        _full.sizes = before


def rehearsing() -> bool:
    """Return whether this thread rehearses a call."""
    return _full.sizes is not None


def chosen_for(axes: Sequence[str], count: int) -> int:
    """Return the number of rows over `axes` that launches are chosen for: `count`, if not cut."""
    if _full.sizes is None:
        return count
    return math.prod(_full.sizes.get(a, 1) for a in axes)
