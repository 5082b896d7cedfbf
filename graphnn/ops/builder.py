"""Expressions: graphs of primitives written as formulas.

Derivatives, decompositions of torch functions and passes are all written with these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from graphnn.ir.graph import IR, Node
from graphnn.ops.registry import build

Number = int | float | bool


class Expr:
    """A node of a graph, with Python operators that add nodes.

    For example `a * b + 1` adds a product, a constant and a sum.
    """

    __slots__ = ("id", "ir")

    def __init__(self, ir: IR, id: int):
        self.ir, self.id = ir, id

    @property
    def node(self) -> Node:
        return self.ir[self.id]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    @property
    def axes(self) -> frozenset[str]:
        return self.node.axes

    @property
    def dtype(self) -> torch.dtype:
        return self.node.dtype

    def __add__(self, other: Expr | Number) -> Expr:
        return make("add", self, other)

    def __radd__(self, other: Number) -> Expr:
        return make("add", other, self)

    def __sub__(self, other: Expr | Number) -> Expr:
        return make("sub", self, other)

    def __rsub__(self, other: Number) -> Expr:
        return make("sub", other, self)

    def __mul__(self, other: Expr | Number) -> Expr:
        return make("mul", self, other)

    def __rmul__(self, other: Number) -> Expr:
        return make("mul", other, self)

    def __truediv__(self, other: Expr | Number) -> Expr:
        return make("div", self, other)

    def __rtruediv__(self, other: Number) -> Expr:
        return make("div", other, self)

    def __neg__(self) -> Expr:
        return make("neg", self)

    def __repr__(self) -> str:
        return f"Expr({self.node.label}, {self.shape}, {sorted(self.axes)})"


def number(x: Any) -> Any:
    """Return a numpy scalar as a Python number, and anything else unchanged."""
    return x.item() if isinstance(x, np.generic) else x


def const(ir: IR, value: Number) -> Expr:
    """Add a Python number, which takes the dtype of the other operands."""
    value = number(value)
    kinds = {bool: torch.bool, int: torch.int64, complex: torch.complex64}
    dtype = kinds.get(type(value), ir.floating)
    node = build(
        ir, "const", (), {"value": value}, shape=(), dtype=dtype, axes=frozenset(), name=""
    )
    return Expr(ir, node)


def make(op: str, *inputs: Expr | Number, name: str | None = None, **attrs: Any) -> Expr:
    """Add a node of the operation `op`; numbers become constants. Its name is that of `ir.here`."""
    ir = next(x.ir for x in inputs if isinstance(x, Expr))
    ids = [x.id if isinstance(x, Expr) else const(ir, x).id for x in inputs]
    return Expr(ir, build(ir, op, ids, attrs, name=name))


ROLES: set[str] = set()


@contextmanager
def role(ir: IR, part: str) -> Iterator[None]:
    """Name the nodes made here by their part in a module's call, for example `norm.mean`.

    Calls of functions that belong to no module have no such names.
    """
    ROLES.update(part.split("."))
    owner, site = ir.here
    ir.here = (f"{owner}.{part}" if owner else "", site)
    try:
        yield
    finally:
        ir.here = (owner, site)


def owner(name: str) -> str:
    """Return the module of a node's name: `norm` for `norm.mean`."""
    path, _, last = name.rpartition(".")
    return owner(path) if path and last in ROLES else name


def reshape(x: Expr, shape: Sequence[int]) -> Expr:
    """Return `x` in another shape, or the same object if it has that shape."""
    return x if tuple(shape) == x.shape else make("reshape", x, shape=tuple(shape))
