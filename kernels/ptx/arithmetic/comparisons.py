"""Comparisons of PTX (`setp`): ordered, unordered, signed and unsigned, and what joins them.

Source: PTX ISA 9.1, section 9.7.5 (comparison operators: tables 28 to 31) and 9.7.6.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .formats import Array

Compare = Callable[[Array, Array], Array]

# ordered: false if an operand is NaN; `lo`, `ls`, `hi`, `hs` are unsigned
_ORDERED: dict[str, Compare] = {
    "eq": np.equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
UNSIGNED = ("lo", "ls", "hi", "hs")


def _unordered(compare: Compare) -> Compare:
    return lambda a, b: compare(a, b) | np.isnan(a) | np.isnan(b)


FLOATS: dict[str, Compare] = {
    **{name: compare for name, compare in _ORDERED.items() if name not in UNSIGNED},
    "ne": lambda a, b: (a < b) | (a > b),
    **{f"{name}u": _unordered(_ORDERED[name]) for name in ("eq", "lt", "le", "gt", "ge")},
    "neu": np.not_equal,
    "num": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "nan": lambda a, b: np.isnan(a) | np.isnan(b),
}
INTEGERS: dict[str, Compare] = {**_ORDERED, "ne": np.not_equal}
JOINS: dict[str, Compare] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}
