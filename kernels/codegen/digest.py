"""The digest of a kernel: equal for kernels that are compiled and launched alike."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..ir.source import KernelSource
from . import prelude


def digest(source: KernelSource[Any]) -> str:
    """Return a hash of everything that the compilation and the launch of a kernel depend on.

    That is its text, the text of the functions that it calls, and every field of the source that is
    a plain value: a new field is included without further work. Compound fields describe what the
    text says already, or what fits.
    """
    settings = {f.name: getattr(source, f.name) for f in fields(source)}
    plain = {k: v for k, v in settings.items() if v is None or isinstance(v, bool | int | str)}
    text = "\n".join([type(source).__name__, repr(plain), _prelude()])
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _prelude() -> str:
    return Path(prelude.__file__).read_text()
