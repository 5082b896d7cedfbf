"""Loops and attention as Triton kernels: from a small program to source, launches and checks.

Imported as `graphnn.kernels`. It depends on nothing else of graphnn and can be used alone:

    from graphnn import kernels
    source = kernels.emit(program)           # a kernels.ir.program.LoopProgram
    launcher = kernels.Launcher(source, kernels.INTERPRETER)
    kernels.simulate.run(launcher.function, grid, *arguments)
    kernels.aot.table(cases)
    kernels.ptx.run(kernels.ptx.parse(text), grid, arguments, shared)

Names are imported when first used, so that `import graphnn` stays fast.
"""

from __future__ import annotations

import importlib
from typing import Any

# public name -> (module, attribute); without an attribute, the module itself
_PUBLIC = {
    "aot": ("aot", ""),
    "ptx": ("ptx", ""),
    "simulate": ("simulate", ""),
    "cache": ("cache", ""),
    "emit": ("codegen.persistent", "emit"),
    "emit_attention": ("attention.emit", "emit"),
    "Launcher": ("runtime.launch", "Launcher"),
    "GPU": ("executors.named", "GPU"),
    "INTERPRETER": ("executors.named", "INTERPRETER"),
}

__all__ = [
    "GPU",
    "INTERPRETER",
    "Launcher",
    "aot",
    "cache",
    "emit",
    "emit_attention",
    "ptx",
    "simulate",
]


def __getattr__(name: str) -> Any:
    """The public name `name`, imported from where it is defined."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(f".{module}", __name__)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
