"""Names and user text in generated code: no text that a user wrote is executed as code.

A `NameTable` gives each variable a unique name within a piece of code. The names that emitters
write themselves are reserved first. Names are compared after NFKC normalization, as in Python.
Other functions escape text for docstrings, comments and string literals.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

# the keywords of Python; `type` is a soft keyword from 3.12 on
KEYWORDS = frozenset((*keyword.kwlist, *keyword.softkwlist, "type"))
# the longest name, in characters
MAX_LENGTH = 80


def word(text: str) -> str:
    """Return a text as one identifier, which may be a keyword, or empty."""
    read = unicodedata.normalize("NFKC", text)
    # characters that are both part of a word for `re` and part of a name for Python
    kept = "".join(c if c.isalnum() and f"_{c}".isidentifier() else "_ "[c != "_"] for c in read)
    found = re.sub(" +", "_", kept).strip("_")[:MAX_LENGTH]
    return found if not found or found.isidentifier() else f"v_{found}"


class NameTable:
    """Gives out unique names, as close to the wanted ones as Python allows.

    `reserved` are names that the emitter writes itself. A name of `families` is also reserved with
    any number appended: `cols` reserves `cols_16`.
    """

    def __init__(self, reserved: Iterable[str] = (), families: Iterable[str] = ()):
        self.taken = {*KEYWORDS, *reserved}
        self._wanted: dict[str, int] = {}
        self.families = set(families)
        self._lengths: dict[str, str] = {}

    def fresh(self, wanted: str) -> str:
        """Return an unused name, and reserve it."""
        base = word(wanted) or "v"
        if base in KEYWORDS or re.sub(r"_\d+$", "", base) in self.families:
            base = f"v_{base}"
        name = base
        while name in self.taken:  # continue at the last number used for this name
            self._wanted[base] = count = self._wanted.get(base, 1) + 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def length(self, axis: str) -> str:
        """Return the name of the length of an axis. It is the same at every call."""
        if axis not in self._lengths:
            self._lengths[axis] = self.fresh(f"n_{axis}")
        return self._lengths[axis]

    def lengths(self, axes: Iterable[str]) -> list[str]:
        """Return the names of the lengths of axes."""
        return [self.length(axis) for axis in axes]


def entry(wanted: str, reserved: Iterable[str] = ()) -> str:
    """Return a name for a function: ASCII, as linkers require, and not reserved."""
    plain = unicodedata.normalize("NFKD", wanted).encode("ascii", "ignore").decode()
    return NameTable(reserved).fresh(plain)


def remark(text: str) -> str:
    """Return text for a docstring or a comment: on one line, and unable to end the docstring."""
    return visible(text.replace("\\", "\\\\").replace('"', "'"))


def visible(text: str) -> str:
    """Return text on one line, with escape sequences for characters that cannot be printed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(text: str) -> str:
    """Return text as a string literal without `#`, so that nothing looks like a comment."""
    return repr(text).replace("#", r"\x23")
