"""Replace the functions of `triton.language` by those of Triton's interpreter, and put them back.

Triton's own code for this depends on its version. Triton 3.5 never undoes it, so that no kernel
could be compiled after an interpreted one. Later versions undo it after each launch, but not for
functions that a kernel calls from another module, and do all of it again for each of these.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import triton.language as tl
from triton.runtime import interpreter

# the interpreter's member for each (owner, name)
Replacements = dict[tuple[Any, str], Any]

_PATCH_LANGUAGE = interpreter._patch_lang
# a stand-in for a function that refers to all of the language, as Triton's own library does
_LIBRARY_FUNCTION = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
# what Triton 3.5 changes
_OWNERS = (tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base)
_ABSENT = object()


@contextmanager
def language_interpreted() -> Iterator[None]:
    """Interpret the language while the context is open. Triton then replaces nothing itself."""
    found = _replacements()
    before = {(owner, name): vars(owner).get(name, _ABSENT) for owner, name in found}
    try:
        for (owner, name), member in found.items():
            setattr(owner, name, member)
        with replaced(interpreter, "_patch_lang", lambda _: _NothingToRestore()):
            yield
    finally:
        for (owner, name), original in before.items():
            _put_back(owner, name, original)


@contextmanager
def replaced(owner: Any, name: str, member: Any) -> Iterator[None]:
    """Replace `owner.name` by `member` while the context is open."""
    before = vars(owner).get(name, _ABSENT)
    setattr(owner, name, member)
    try:
        yield
    finally:
        _put_back(owner, name, before)


class _NothingToRestore:
    """The scope that Triton restores at the end of a launch."""

    def restore(self) -> None:
        """Do nothing: `language_interpreted` puts everything back."""


@functools.cache
def _replacements() -> Replacements:
    """Return what the installed Triton replaces in the language; found once."""
    scoped = hasattr(interpreter, "_LangPatchScope")  # from Triton 3.6 on
    found = _from_scope() if scoped else _from_difference()
    # Triton 3.5 and 3.6 convert one-element arrays as numpy 2.4 no longer allows
    found[tl.tensor, "__index__"] = lambda self: int(self.handle.data.item())
    return found


def _from_scope() -> Replacements:
    """Return what Triton lists as changed, and undo it."""
    scope = _PATCH_LANGUAGE(_LIBRARY_FUNCTION)
    found = {(owner, name): vars(owner)[name] for owner, name, _ in scope._changes}
    scope.restore()
    return found


def _from_difference() -> Replacements:
    """Return what differs after Triton has replaced everything, and undo it."""
    before = [(owner, dict(vars(owner))) for owner in _OWNERS]
    _PATCH_LANGUAGE(_LIBRARY_FUNCTION)
    found = {}
    for owner, known in before:
        for name, member in dict(vars(owner)).items():
            if (original := known.get(name, _ABSENT)) is not member:
                found[owner, name] = member
                _put_back(owner, name, original)
    return found


def _put_back(owner: Any, name: str, before: Any) -> None:
    if before is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, before)
