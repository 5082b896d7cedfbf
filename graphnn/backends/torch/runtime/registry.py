"""Programs of operators under keys: an operator of torch is given a key, and finds its program.

A key tells a program from every other, so that no two ever share one. The registry holds no
program: models do, and the autograd graphs that have still to run one. What torch.compile made
knows a key and nothing else, so that a program it has looked at stays.
"""

from __future__ import annotations

import hashlib
import itertools
import weakref
from typing import Any

from graphnn.kernels.ir.symbols import remark

_PROGRAMS: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
_TRACED: dict[str, Any] = {}
_numbers = itertools.count()


def entered(name: str, text: str, program: Any) -> str:
    """Enter a program; its key is its name, a hash of its code and a number of its own.

    The hash is for what torch.compile keeps on disk, where another process numbers differently.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    key = f"{remark(name)} {digest} {next(_numbers)}"
    _PROGRAMS[key] = program
    return key


def found(key: str) -> Any:
    """The program of a key."""
    return _PROGRAMS[key]


def traced(key: str) -> Any:
    """The program of a key in a trace, which holds nothing else of it."""
    return _TRACED.setdefault(key, _PROGRAMS[key])


def title(key: str) -> str:
    """The name that a key begins with."""
    return key.rsplit(" ", 2)[0]
