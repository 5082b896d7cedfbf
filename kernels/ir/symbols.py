"""The names of generated code, and users' words in it: no text of a user's becomes code.

A `NameTable` gives each variable a name that nothing else in a piece of code has. What emitters
write by themselves is reserved before users' names come; names are compared as Python reads them
(NFKC: a ligature is its letters). Text in docstrings, comments and strings is made safe here.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

# the keywords of Python; `type` is a soft keyword from 3.12 on
KEYWORDS = frozenset((*keyword.kwlist, *keyword.softkwlist, "type"))
# the longest name, in characters
LONGEST = 80


def word(text: str) -> str:
    """The words of a text as one identifier; it may be a keyword, or empty."""
    read = unicodedata.normalize("NFKC", text)
    # characters that are both part of a word for `re` and part of a name for Python
    kept = "".join(c if c.isalnum() and f"_{c}".isidentifier() else "_ "[c != "_"] for c in read)
    found = re.sub(" +", "_", kept).strip("_")[:LONGEST]
    return found if not found or found.isidentifier() else f"v_{found}"


class NameTable:
    """Names that are each used once, as close to the wanted ones as Python allows.

    `reserved` are those of the emitter itself; of a `family` it has any, numbered: `cols_16`.
    """

    def __init__(self, reserved: Iterable[str] = (), families: Iterable[str] = ()):
        self.taken = {*KEYWORDS, *reserved}
        self._wanted: dict[str, int] = {}
        self.families = set(families)
        self._lengths: dict[str, str] = {}

    def fresh(self, wanted: str) -> str:
        """A name that nothing has yet."""
        base = word(wanted) or "v"
        if base in KEYWORDS or re.sub(r"_\d+$", "", base) in self.families:
            base = f"v_{base}"
        name = base
        while name in self.taken:  # the search goes on where the last one for it ended
            self._wanted[base] = count = self._wanted.get(base, 1) + 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name

    def length(self, axis: str) -> str:
        """The name of an axis's length, one for each axis."""
        if axis not in self._lengths:
            self._lengths[axis] = self.fresh(f"n_{axis}")
        return self._lengths[axis]

    def lengths(self, axes: Iterable[str]) -> list[str]:
        """The names of the lengths of axes."""
        return [self.length(axis) for axis in axes]


def entry(wanted: str, reserved: Iterable[str] = ()) -> str:
    """The name of a function: in ASCII, as linkers want it, and none of its module's own."""
    plain = unicodedata.normalize("NFKD", wanted).encode("ascii", "ignore").decode()
    return NameTable(reserved).fresh(plain)


def remark(text: str) -> str:
    """Text as it may stand in a docstring or a comment: on one line, and without an end to it."""
    return visible(text.replace("\\", "\\\\").replace('"', "'"))


def visible(text: str) -> str:
    """Text on one line, what cannot be printed spelt as in Python's strings."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(text: str) -> str:
    """Text as a string of the code; it holds nothing that looks like a comment."""
    return repr(text).replace("#", r"\x23")
