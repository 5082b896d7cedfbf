"""What atomic operations leave in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _add(old: Any, value: Any) -> Any:
    return old + value  # wraps; numpy's warnings are off while a kernel runs


# by operation: the number found and the operands to the new number (PTX ISA 9.1, section 9.7.13.5)
NEW_VALUES: dict[str, Callable[..., Any]] = {
    "add": _add,
    "min": min,
    "max": max,
    "and": lambda old, x: old & x,
    "or": lambda old, x: old | x,
    "xor": lambda old, x: old ^ x,
    "exch": lambda old, x: x,
    "cas": lambda old, expected, x: x if old == expected else old,
    "inc": lambda old, x: old * 0 if old >= x else old + old.dtype.type(1),
    "dec": lambda old, x: x if old == 0 or old > x else old - old.dtype.type(1),
}
