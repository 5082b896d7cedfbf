"""Instructions of a whole warp: shuffles, votes, reductions, matches, elections.

Arrays have the shape (warps, 32), or (threads,) with 32 threads per warp in order; results have
the shape of the operand. `members` says which lanes take part (the member mask and the guard).
Source: PTX ISA 9.1, section 9.7.9.6 (shfl) and 9.7.13 (vote, match, redux, elect).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .formats import Array

LANES = 32
_LANE = np.arange(LANES)


def _rows(x: Array) -> Array:
    return x.reshape(-1, LANES)


def shuffle_lanes(mode: str, b: Array, c: Array) -> tuple[Array, Array]:
    """Return the lane that each thread reads, and whether it is in range (`shfl`).

    `mode` is "up", "down", "bfly" or "idx". `c` holds the clamp in bits 0 to 4 and the mask of
    segments in bits 8 to 12. A thread whose lane is out of range reads its own.
    """
    lane = _LANE
    b, c = _rows(b).astype(np.int64) & 31, _rows(c).astype(np.int64)
    clamp, segment = c & 31, (c >> 8) & 31
    most, least = (lane & segment) | (clamp & ~segment), lane & segment
    found = {"up": lane - b, "down": lane + b, "bfly": lane ^ b, "idx": least | (b & ~segment)}
    j = found[mode]
    valid = j >= most if mode == "up" else j <= most
    return np.where(valid, j, lane), valid


def shuffle(mode: str, a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Return what each thread reads of `a`, and whether its source lane is in range."""
    source, valid = shuffle_lanes(mode, b, c)
    return np.take_along_axis(_rows(a), source, 1).reshape(a.shape), valid.reshape(a.shape)


def ballot(predicate: Array, members: Array) -> Array:
    """Return the lanes that take part and whose predicate is true, as a 32-bit mask."""
    on = _rows(predicate) & _rows(members)
    mask = (on.astype(np.uint32) << _LANE.astype(np.uint32)).sum(1, dtype=np.uint32)
    return np.repeat(mask, LANES).reshape(predicate.shape)


def vote(mode: str, predicate: Array, members: Array) -> Array:
    """Return whether the predicates of all members, any or either are true (`vote`)."""
    there = _rows(members)
    on, off = (_rows(predicate) & there).any(1), (~_rows(predicate) & there).any(1)
    found = {"all": ~off, "any": on, "uni": ~(on & off)}[mode]
    return np.repeat(found, LANES).reshape(predicate.shape)


# the operation of each `redux`, and the number that changes nothing
_REDUCTIONS: dict[str, tuple[Callable[..., Any], Callable[[np.dtype[Any]], int]]] = {
    "add": (np.add, lambda d: 0),
    "min": (np.minimum, lambda d: int(np.iinfo(d).max)),
    "max": (np.maximum, lambda d: int(np.iinfo(d).min)),
    "and": (np.bitwise_and, lambda d: -1 if d.kind == "i" else int(np.iinfo(d).max)),
    "or": (np.bitwise_or, lambda d: 0),
    "xor": (np.bitwise_xor, lambda d: 0),
}


def reduce(mode: str, a: Array, members: Array) -> Array:
    """Return the sum, least, greatest, or bitwise result of all members (`redux`)."""
    function, neutral = _REDUCTIONS[mode]
    kept = np.where(_rows(members), _rows(a), a.dtype.type(neutral(a.dtype)))
    found = function.reduce(kept, axis=1, dtype=a.dtype)  # type: ignore[attr-defined]
    return np.repeat(found, LANES).reshape(a.shape)


def match(a: Array, members: Array) -> Array:
    """Return the mask of members with the same number as each thread (`match.any`)."""
    rows, there = _rows(a), _rows(members)
    same = (rows[:, :, None] == rows[:, None, :]) & there[:, None, :]
    bits = np.uint32(1) << _LANE.astype(np.uint32)
    return np.where(same, bits, np.uint32(0)).sum(2, dtype=np.uint32).reshape(a.shape)


def match_all(a: Array, members: Array) -> tuple[Array, Array]:
    """Return the member mask if all members have one number, else 0, and whether they do."""
    mask = ballot(np.ones(a.shape, np.bool_), members)
    alike = (match(a, members) == mask) | ~members
    every = vote("all", alike, members)
    return np.where(every, mask, np.uint32(0)), every


def elect(members: Array) -> tuple[Array, Array]:
    """Return the leader, which is the lowest lane of the members, and who it is (`elect`)."""
    there = _rows(members)
    leader = there.argmax(1)
    chosen = (leader[:, None] == _LANE) & there
    lanes = np.repeat(leader.astype(np.uint32), LANES).reshape(members.shape)
    return lanes, chosen.reshape(members.shape)
