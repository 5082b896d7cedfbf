"""The table of primitive operations: meaning, derivative, and how torch writes each.

`registry` holds the rows, one module per family fills them, `builder` builds graphs of them by
formula, and `ops.torch` says which torch functions they are.
"""

from graphnn.ops import axis, custom_gradient, matmul, pointwise, reductions, sources, views
from graphnn.ops.builder import Expr, const, make
from graphnn.ops.registry import OPS, Primitive

__all__ = [
    "OPS",
    "Expr",
    "Primitive",
    "axis",
    "const",
    "custom_gradient",
    "make",
    "matmul",
    "pointwise",
    "reductions",
    "sources",
    "views",
]
