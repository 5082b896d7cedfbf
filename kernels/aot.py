"""The ahead-of-time check under its public name, `graphnn.kernels.aot`: see `feasibility.aot`."""

from .feasibility.aot import (
    TARGETS,
    Case,
    DoesNotCompile,
    Resources,
    Row,
    inspect,
    main,
    render,
    table,
)

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
