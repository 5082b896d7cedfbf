"""Fast paths for Triton's interpreter: work that it repeats per call or operation is done once.

Results of kernels do not change. The repeated work was more than a third of a launch's time.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import FunctionRewriter, InterpretedFunction
from triton.runtime.jit import JITFunction

from .language import replaced

_BUILDER = interpreter.interpreter_builder
_GET_NP_DTYPE = interpreter._get_np_dtype
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
    """Enable the fast paths for one launch."""
    # the interpreter checks int64 for overflow, and discards the result unless debugging
    options = replace(_BUILDER.options, sanitize_overflow=_BUILDER.options.debug)
    with (
        replaced(_BUILDER, "options", options),
        replaced(interpreter, "_get_np_dtype", _np_dtype),
    ):
        yield


def _np_dtype(dtype: Any) -> np.dtype:
    """Return the numpy dtype of a type. Triton's own function builds a table at each call."""
    if isinstance(dtype, tl.block_type):
        dtype = dtype.element_ty
    name = "" if isinstance(dtype, tl.pointer_type) else dtype.name
    if name not in _NP_DTYPES:
        _NP_DTYPES[name] = _GET_NP_DTYPE(dtype)
    return _NP_DTYPES[name]
