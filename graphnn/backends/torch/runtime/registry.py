"""The programs of torch operators by key: an operator receives a key and looks its program up.

No two programs share a key. The registry references programs weakly: models own them, and so do
autograd graphs that still have to run one. Code compiled by torch.compile holds only keys, so that
traced programs are kept alive here.
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
    """Register a program; returns its key: its name, a hash of its code and a unique number.

    The hash is for torch.compile's cache on disk: another process numbers programs differently.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    key = f"{remark(name)} {digest} {next(_numbers)}"
    _PROGRAMS[key] = program
    return key


def found(key: str) -> Any:
    """The program of a key."""
    return _PROGRAMS[key]


def traced(key: str) -> Any:
    """The program of a key, kept alive because a trace refers to it."""
    return _TRACED.setdefault(key, _PROGRAMS[key])


def title(key: str) -> str:
    """The name in a key."""
    return key.rsplit(" ", 2)[0]
