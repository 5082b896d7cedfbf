"""The environment variables that say which kernels run, and which are checked first.

GRAPHNN_TRUST says when kernels are checked: 0 is never, 1 (the default) on first use, always at
each call. GRAPHNN_KERNELS lists the kinds of kernels that may run (`KINDS`), separated by commas;
torch computes the rest, and everything with GRAPHNN_KERNELS=torch. GRAPHNN_ROWS is the most rows
of a tile.
"""

from __future__ import annotations

import os

NEVER, FIRST, ALWAYS = "0", "1", "always"
MODES = NEVER, FIRST, ALWAYS
TORCH = "torch"
# loops by one block, by many blocks, step by step; attention with its statistics, top-k and hops
KINDS = "resident", "cooperative", "stepwise", "attention", "scan", "random"
ROWS = 16, 32, 64, 128


def trust_mode() -> str:
    """Return when kernels are checked: `NEVER`, `FIRST` or `ALWAYS`."""
    given = os.environ.get("GRAPHNN_TRUST") or FIRST
    if given not in MODES:
        raise _wrong("GRAPHNN_TRUST", given, "0 (never), 1 (on first use) or always (each call)")
    return given


def allowed_kinds() -> frozenset[str]:
    """Return the kinds of kernels that may run."""
    given = os.environ.get("GRAPHNN_KERNELS", "")
    if not given:
        return frozenset(KINDS)
    words = [word.strip() for word in given.split(",")]
    if not set(words) <= {TORCH, *KINDS}:
        wanted = f"{TORCH} (no kernels), or words among {', '.join(KINDS)}, separated by commas"
        raise _wrong("GRAPHNN_KERNELS", given, wanted)
    return frozenset(words) - {TORCH}


def most_tile_rows() -> int:
    """Return the most rows of a tile."""
    given = os.environ.get("GRAPHNN_ROWS") or str(ROWS[-1])
    if given not in map(str, ROWS):
        raise _wrong("GRAPHNN_ROWS", given, f"one of {', '.join(map(str, ROWS))}")
    return int(given)


def check_switches() -> None:
    """Raise ValueError if one of the variables has a value that it cannot have."""
    trust_mode(), allowed_kinds(), most_tile_rows()


def _wrong(name: str, given: str, wanted: str) -> ValueError:
    return ValueError(f"the environment variable {name} is {given!r}; wanted: {wanted}")
