"""Fast paths for Triton's interpreter: work that it repeats per call or operation is done once.

Results of kernels do not change. The repeated work was more than a third of a launch's time.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import FunctionRewriter, InterpretedFunction
from triton.runtime.jit import JITFunction

_BUILDER = interpreter.interpreter_builder
# a stand-in for a function that refers to all of the language, as Triton's own library does
_LIBRARY_FUNCTION = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
_PATCH_LANGUAGE, _GET_NP_DTYPE = interpreter._patch_lang, interpreter._get_np_dtype
_NP_DTYPES: dict[str, np.dtype] = {}


def to_interpreted(function: JITFunction) -> InterpretedFunction:
    """Convert a jitted function to the interpreter's own type of function."""
    made = InterpretedFunction(function.fn)
    made.rewritten_fn = {}  # Triton's own table is global and keeps every function alive
    made.rewriter.rewrite_ast = functools.partial(_rewrite, made.rewriter, function)
    return made


def _rewrite(rewriter: FunctionRewriter, function: JITFunction) -> Any:
    """Compile the text that `function` holds; searching its module for the text is slow."""
    lines = function.raw_src
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith("def "))
    rewriter.filename = function.fn.__code__.co_filename
    rewriter.def_file_lineno = function.starting_line_number + begin
    text = textwrap.dedent("".join(lines[begin:]))
    return rewriter._compile_and_exec(rewriter._transform_ast(text))


@contextmanager
def fast_interpreter() -> Iterator[None]:
    """Enable the fast paths for one launch. The language is patched once in it."""
    # the interpreter checks int64 for overflow, and discards the result unless debugging
    options = replace(_BUILDER.options, sanitize_overflow=_BUILDER.options.debug)
    with (
        replaced(_BUILDER, "options", options),
        replaced(interpreter, "_get_np_dtype", _np_dtype),
        replaced(interpreter, "_patch_lang", _patch_once()),
    ):
        yield


@contextmanager
def replaced(owner: Any, name: str, member: Any) -> Iterator[None]:
    """Replace `owner.name` by `member` while the context is open."""
    before = getattr(owner, name)
    setattr(owner, name, member)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _patch_once() -> Callable[[Any], Any]:
    """Return a function that patches all of the language at its first call only.

    Triton's own function patches it for each function that a kernel calls, and does not undo that:
    a call of `tl.zeros` would leave its module patched, and compiling would fail afterwards.
    """
    pending = [_patch_language]
    return lambda _: pending.pop()() if pending else interpreter._LangPatchScope()


def _patch_language() -> Any:
    """Patch the language and return the scope that undoes it."""
    scope = interpreter._LangPatchScope()
    for owner, name, member in _patches():
        scope.set_attr(owner, name, member)
    return scope


@functools.cache
def _patches() -> list[tuple[Any, str, Any]]:
    """Return what Triton replaces in the language, as (owner, name, member); found once."""
    scope = _PATCH_LANGUAGE(_LIBRARY_FUNCTION)
    found = {(owner, name): vars(owner)[name] for owner, name, _ in scope._changes}
    scope.restore()
    return [(*key, member) for key, member in found.items()]


def _np_dtype(dtype: Any) -> np.dtype:
    """Return the numpy dtype of a type. Triton's own function builds a table at each call."""
    if isinstance(dtype, tl.block_type):
        dtype = dtype.element_ty
    name = "" if isinstance(dtype, tl.pointer_type) else dtype.name
    if name not in _NP_DTYPES:
        _NP_DTYPES[name] = _GET_NP_DTYPE(dtype)
    return _NP_DTYPES[name]
