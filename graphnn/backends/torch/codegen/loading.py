"""Loading generated source: compiled once, with the functions that it calls."""

from __future__ import annotations

import hashlib
import itertools
import linecache
import weakref
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from graphnn.backends.torch.codegen.lowering import Lowering
from graphnn.backends.torch.runtime import axis
from graphnn.backends.torch.runtime.active_rows import ActiveRows
from graphnn.backends.torch.runtime.linear import linear, outer
from graphnn.backends.torch.runtime.packed import packed_linear, packed_outer, valid_positions
from graphnn.backends.torch.runtime.recurrent_linear import recurrent_linear
from graphnn.backends.torch.runtime.scan import scan
from graphnn.backends.torch.runtime.torch_layers import recurrent
from graphnn.ir.debug import show

# the members of `runtime` in generated code
CALLED = SimpleNamespace(
    **{k: v for k, v in vars(axis).items() if not k.startswith("_")},
    linear=linear,
    outer=outer,
    valid_positions=valid_positions,
    packed_linear=packed_linear,
    packed_outer=packed_outer,
    recurrent_linear=recurrent_linear,
    scan=scan,
    recurrent=recurrent,
    ActiveRows=ActiveRows,
)
_numbers = itertools.count()


def load(source: str, name: str, objects: dict[str, Any]) -> Any:
    """Compile generated source; returns its function `name`.

    Tracebacks and debuggers can show the source as long as the function exists.
    """
    show("code", name, lambda: source)
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    file = f"<graphnn {name} {digest} {next(_numbers)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "runtime": CALLED,
        "inf": float("inf"),
        "nan": float("nan"),
        **objects,
    }
    exec(compile(source, file, "exec"), namespace)
    function = namespace[name]
    # finalize the code object: frames of a traceback hold it as well
    weakref.finalize(function.__code__, linecache.cache.pop, file, None).atexit = False
    return function


def called(lowering: Lowering | None) -> dict[str, Any]:
    """The objects of generated code that a lowering replaces: `runtime`, or none."""
    if lowering is None:
        return {}
    return {"runtime": SimpleNamespace(**{**vars(CALLED), **lowering.called()})}
