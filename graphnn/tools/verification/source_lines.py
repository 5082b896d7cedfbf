"""The line of a generated kernel that stores a tensor."""

from __future__ import annotations

import linecache
import re


def storing_line(file: str, pointer: str) -> int:
    """Return the first line of a kernel that stores through a pointer, 0 if there is none."""
    text = linecache.getlines(file)
    name = re.compile(rf"\b{re.escape(pointer)}\b")
    stores = (k for k, line in enumerate(text) if "tl.store(" in line)
    return next((k + 1 for k in stores if any(name.search(x) for x in text[k : k + 3])), 0)
