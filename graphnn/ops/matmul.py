"""Einsums of two values: one operation for matrix products, linear maps and dot products.

`sub` names the dimensions of both shapes and of the result as `torch.einsum` does; `contract` are
named axes that are summed over in addition. The gradients of this operation are the same operation.
"""

from __future__ import annotations

import string
from typing import Any

import torch

from graphnn.ops.builder import Expr, make
from graphnn.ops.registry import contracted, row


def split_sub(sub: str) -> tuple[str, str, str]:
    """Return the three parts of an einsum such as `"k,nk->n"`."""
    left, out = sub.split("->")
    a, b = left.split(",")
    return a, b, out


def contraction(a: Expr, b: Expr, sub: str, keep: frozenset[str]) -> Expr:
    """Return the einsum of `a` and `b`, summed over every axis that is not in `keep`."""
    return make("einsum", a, b, sub=sub, contract=(a.axes | b.axes) - keep)


def _grad(g: Expr, y: Expr, a: Expr, b: Expr) -> Any:
    left, right, out = split_sub(y.node.attrs["sub"])
    # letters that only one operand has are summed over in y: torch.einsum broadcasts g over them
    return (
        contraction(g, b, f"{out},{right}->{left}", a.axes),
        contraction(g, a, f"{out},{left}->{right}", b.axes),
    )


row(
    "einsum",
    "einsum",
    lambda a, b, sub: torch.einsum(sub, a, b),
    grad=_grad,
    axes=contracted,
    private=frozenset({"contract"}),
)


def linear(x: Expr, weight: Expr) -> Expr:
    """Return `x Wᵀ` over the last dimension; `weight` is (out, in), as in `nn.Linear`."""
    rest = string.ascii_lowercase[: len(x.shape) - 1]
    return make("einsum", x, weight, sub=f"{rest}y,zy->{rest}z", contract=frozenset())


def einsum(equation: str, a: Expr, b: Expr) -> Expr:
    """Return an einsum of two operands over the shapes of one example at one position."""
    return make("einsum", a, b, sub=equation, contract=frozenset())


# c + einsum(a, b): the pass multiply_add makes one call of two, just before code is generated
row(
    "affine",
    "einsum",
    lambda c, a, b, sub: c + torch.einsum(sub, a, b),
    axes=contracted,
    private=frozenset({"contract"}),
)
