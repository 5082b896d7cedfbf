"""What programs of loops and of attention have in common: kinds of elements, names and notes."""

from __future__ import annotations

import itertools
from collections.abc import Container

import torch

from graphnn.backends.torch.codegen.code import Expression, code
from graphnn.backends.torch.codegen.scope import Scope
from graphnn.ir.graph import Node
from graphnn.kernels.ir.program import Unsupported

# kernels compute integers in int64; narrower ones wrap around as their dtype does
NARROW_INTEGERS = {
    torch.int32: "tl.int32",
    torch.int16: "tl.int16",
    torch.int8: "tl.int8",
    torch.uint8: "tl.uint8",
}
# floats that are cast to one of these are rounded to it
ROUNDED_FLOATS = {torch.bfloat16: "tl.bfloat16", torch.float16: "tl.float16"}
# templates that convert an element to a kind
CONVERSIONS = {"float": "{0}.to(ACC)", "int": "{0}.to(tl.int64)", "bool": "({0} != 0)"}


def element_kind(node: Node) -> str:
    """Return the kernels' name for the kind of a value's elements: "float", "int" or "bool"."""
    if node.dtype == torch.bool:
        return "bool"
    return "float" if node.dtype.is_floating_point else "int"


def storage_kind(node: Node, floating: torch.dtype) -> str:
    """Return the kind of a tensor in memory, in a graph of the dtype `floating`.

    Raises Unsupported if kernels have no kind for its dtype.
    """
    wide = torch.promote_types(floating, torch.float32)
    if node.dtype.is_complex:
        raise Unsupported(f"{located(node)} is {node.dtype}; kernels compute real numbers only")
    if not node.dtype.is_floating_point or node.dtype == floating:
        return element_kind(node)
    if node.dtype == wide:
        return "acc"
    raise Unsupported(f"{located(node)} is {node.dtype} in a graph of {floating}")


def kernel_argument(scope: Scope, i: int) -> Expression:
    """Return the argument of a kernel for a value: narrow integers are converted to int64."""
    node = scope.ir[i]
    if node.dtype in NARROW_INTEGERS:
        return code("{}.to(torch.int64)", scope.var(i))
    return scope.var(i)


def unused_name(wanted: str, used: Container[str]) -> str:
    """Return `wanted`, or the first of `wanted_2`, `wanted_3` ... that is not used."""
    numbered = (f"{wanted}_{count}" for count in itertools.count(2))
    return next(name for name in itertools.chain([wanted], numbered) if name not in used)


def take_name(wanted: str, used: dict[str, int]) -> str:
    """Return a name as `unused_name` does, and mark it as used.

    `used` counts per wanted name, so that the next search goes on where the last one ended.
    """
    name = wanted
    while name in used:
        used[wanted] = count = used[wanted] + 1
        name = f"{wanted}_{count}"
    used[name] = 1
    return name


def name_of(node: Node) -> str:
    """Return the name that generated code prefers for a value: the user's, or its operation."""
    return node.name or str(node.attrs.get("was", node.op))


def located(node: Node) -> str:
    """Return a node's label and the user's line, as reasons show them."""
    return f"'{node.label}'{at_site(node)}"


def at_site(node: Node) -> str:
    """Return " at <file:line>" of a node, or nothing if no user's line made it."""
    return f" at {node.site}" if node.site else ""


def note_of(node: Node) -> str:
    """Return the comment that marks a node's operation in generated kernels."""
    return f"{node.label}, {node.site}" if node.site else node.label
