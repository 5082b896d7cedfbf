"""The table of primitive operations: meaning, derivative, and how torch writes each.

`table` holds the rows, one module a family fills them, `expr` builds graphs of them by formula and
`torch_names` says which torch functions they are.
"""

from graphnn.ops import axis, custom, pointwise, product, reduce, sources, views
from graphnn.ops.expr import Expr, const, make
from graphnn.ops.table import OPS, Op

__all__ = [
    "OPS",
    "Expr",
    "Op",
    "axis",
    "const",
    "custom",
    "make",
    "pointwise",
    "product",
    "reduce",
    "sources",
    "views",
]
