"""What Triton's interpreter does anew at every call and operation, done once or left out.

Nothing that a kernel computes depends on it; of a launch's time it was more than a third.
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
# a function that sees all of the language, as those of Triton's own library do
_SEEING = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})
_PATCH, _GET_KIND = interpreter._patch_lang, interpreter._get_np_dtype
_KINDS: dict[str, np.dtype] = {}


def interpretable(function: JITFunction) -> InterpretedFunction:
    """A jitted function as the interpreter's own kind of function."""
    made = InterpretedFunction(function.fn)
    made.rewritten_fn = {}  # Triton's own table is one for all, and keeps every function alive
    made.rewriter.rewrite_ast = functools.partial(_rewritten, made.rewriter, function)
    return made


def _rewritten(rewriter: FunctionRewriter, function: JITFunction) -> Any:
    """What is run, made of the text that `function` keeps: to find it in a module takes long."""
    lines = function.raw_src
    begin = next(i for i, line in enumerate(lines) if line.strip().startswith("def "))
    rewriter.filename = function.fn.__code__.co_filename
    rewriter.def_file_lineno = function.starting_line_number + begin
    text = textwrap.dedent("".join(lines[begin:]))
    return rewriter._compile_and_exec(rewriter._transform_ast(text))


@contextmanager
def thrifty() -> Iterator[None]:
    """The interpreter as it is to be for one launch, whose language is patched once."""
    # an overflow is looked for in int64, and what is found then thrown away unless debugging
    options = replace(_BUILDER.options, sanitize_overflow=_BUILDER.options.debug)
    with (
        instead(_BUILDER, "options", options),
        instead(interpreter, "_get_np_dtype", _kind),
        instead(interpreter, "_patch_lang", _once()),
    ):
        yield


@contextmanager
def instead(place: Any, name: str, member: Any) -> Iterator[None]:
    """`place.name` replaced by `member`."""
    before = getattr(place, name)
    setattr(place, name, member)
    try:
        yield
    finally:
        setattr(place, name, before)


def _once() -> Callable[[Any], Any]:
    """Patches all of the language when first called, and nothing after: for one launch.

    Triton's own patches it for each function that a kernel calls, and does not undo that: a call
    of `tl.zeros` would leave its module patched, and nothing could be compiled after.
    """
    scopes = [_patched]
    return lambda _: scopes.pop()() if scopes else interpreter._LangPatchScope()


def _patched() -> Any:
    """The language patched, as Triton found out once a process how; what undoes it."""
    scope = interpreter._LangPatchScope()
    for place, name, member in _patches():
        scope.set_attr(place, name, member)
    return scope


@functools.cache
def _patches() -> list[tuple[Any, str, Any]]:
    """Where the language is patched, and what stands there then."""
    scope = _PATCH(_SEEING)
    found = {(place, name): vars(place)[name] for place, name, _ in scope._changes}
    scope.restore()
    return [(*where, member) for where, member in found.items()]


def _kind(dtype: Any) -> np.dtype:
    """A type's kind in numpy; Triton's own makes a table of all kinds at each call."""
    if isinstance(dtype, tl.block_type):
        dtype = dtype.element_ty
    name = "" if isinstance(dtype, tl.pointer_type) else dtype.name
    if name not in _KINDS:
        _KINDS[name] = _GET_KIND(dtype)
    return _KINDS[name]
