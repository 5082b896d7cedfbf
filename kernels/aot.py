"""The ahead-of-time check under its public name, `graphnn.kernels.aot`: see `feasibility.aot`."""

from .feasibility.aot import (
    TARGETS,
    DoesNotCompile,
    Resources,
    inspect,
    main,
    render,
    table,
)
from .feasibility.aot import KernelCase as Case
from .feasibility.aot import VerdictRow as Row

__all__ = [
    "TARGETS",
    "Case",
    "DoesNotCompile",
    "Resources",
    "Row",
    "inspect",
    "main",
    "render",
    "table",
]
